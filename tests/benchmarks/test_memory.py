"""The ratios of measured peaks, and laps of equal work."""

from __future__ import annotations

import pytest

from benchmarks.memory import compared
from benchmarks.scaling import passes_for


def test_ratios_are_those_of_the_largest_peak() -> None:
    assert compared([100], None) == {}
    assert compared([100], 400) == {"ratio_to_plain": 0.25}
    assert compared([100, 120, 110], 400) == {"ratio_to_plain": 0.3, "most_to_least": 1.2}


@pytest.mark.parametrize(("side", "passes"), [(2048, 3), (1024, 4), (512, 16), (128, 20)])
def test_a_lap_of_a_small_image_has_more_passes(side: int, passes: int) -> None:
    assert passes_for(side, 2048, 3, 20) == passes
