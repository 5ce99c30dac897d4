"""Sizes, photographs and ratios of the benchmark of whole commands."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmarks.megapixels import psnr, size_of, summary, tiled, with_noise


@pytest.mark.parametrize("megapixels", [0.25, 1.0, 24.0])
def test_sizes_have_the_shape_of_a_photograph(megapixels: float) -> None:
    height, width = size_of(megapixels)
    assert height * width == pytest.approx(1e6 * megapixels, rel=0.01)
    assert width / height == pytest.approx(1.5, rel=0.01)


def test_photographs_lie_side_by_side() -> None:
    photos = [np.full((8, 12, 3), value, np.uint8) for value in (10, 20)]
    image = tiled(photos, 10, 20)
    assert image.shape == (10, 20, 3)
    assert [image[0, column, 0] for column in (0, 8, 16)] == [10, 20, 10]
    assert image[9, 0, 0] == 20


def test_psnr_and_noise_are_in_grey_levels() -> None:
    clean = np.full((64, 64, 3), 128, np.uint8)
    assert psnr(clean + np.uint8(2), clean) == pytest.approx(20 * math.log10(255 / 2))
    assert psnr(with_noise(clean, 10), clean) == pytest.approx(20 * math.log10(25.5), abs=0.3)


def test_ratios_are_within_a_round() -> None:
    def row(way: str, number: int, seconds: float) -> dict[str, Any]:
        used = {"user_seconds": 9.0, "system_seconds": 1.0, "page_faults": 5, "peak_bytes": 70, "interpreter_bytes": 30}
        image = {"image": "1 megapixels", "inputs": {"way": way, "round": number}, "psnr": 30.0}
        return {**image, "seconds": seconds, **used}

    rows = [row("default", 0, 1), row("passes", 0, 10), row("default", 1, 4), row("passes", 1, 20)]
    (entry,) = summary(rows)
    assert entry["ratio"] == pytest.approx(0.15)
    assert entry["default"]["system_share"] == 0.1
    assert entry["default"]["peak_bytes"] == 40
    assert summary(rows[:1]) == []
