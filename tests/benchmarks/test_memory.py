"""Ratios of measured peaks, and passes for timings of equal work."""

from __future__ import annotations

import pytest

from benchmarks.memory import peak_ratios
from benchmarks.scaling import passes_for


def test_ratios_are_of_the_largest_peak() -> None:
    assert peak_ratios([100], None) == {}
    assert peak_ratios([100], 400) == {"ratio_to_plain": 0.25}
    assert peak_ratios([100, 120, 110], 400) == {"ratio_to_plain": 0.3, "most_to_least": 1.2}


@pytest.mark.parametrize(("side", "passes"), [(2048, 3), (1024, 4), (512, 16), (128, 20)])
def test_a_small_image_has_more_passes(side: int, passes: int) -> None:
    assert passes_for(side, 2048, 3, 20) == passes
