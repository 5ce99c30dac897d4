"""What many images in one process leave behind, and how the figures of the soak are made."""

from __future__ import annotations

import sys

import pytest

from benchmarks.soak import Moment, calls_in_threads, growth, images_in_one_process


def test_growth_is_that_from_the_second_fifth_to_the_last() -> None:
    moments = [Moment(100_000_000 + 1_000_000 * i, 6 + (i > 11), 2 + (i == 14), 1 if i > 11 else 0) for i in range(15)]
    assert growth(moments) == {
        "moments": 15,
        "memory_megabytes": 113.0,
        "memory_growth_megabytes": 9.0,
        "handles": 7,
        "handles_growth": 1,
        "threads": 2,
        "threads_growth": 0,
        "temporary_files": 1,
        "temporary_files_growth": 1,
    }
    with pytest.raises(ValueError, match="4 moments; expected at least 5"):
        growth(moments[:4])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="handles are counted as Linux does")
@pytest.mark.parametrize(
    "watch", [lambda: images_in_one_process(15), lambda: calls_in_threads(5, 2)], ids=["cli", "api"]
)
def test_nothing_grows_and_nothing_is_left(watch: object) -> None:
    assert callable(watch)
    moments, left = watch()
    grown = growth(moments)
    assert left == 0
    assert grown["handles_growth"] <= 0
    assert grown["threads_growth"] <= 0
    assert grown["temporary_files_growth"] <= 0
    # A leak of an image's fit would be some 10 MB each; libraries keep a few.
    assert grown["memory_growth_megabytes"] < 60
