"""Sizes, photographs and ratios of the benchmark of whole commands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.megapixels import (
    Case,
    in_lines,
    page_table,
    psnr,
    read_pixels,
    size_of,
    stack_of,
    summary,
    tiled,
    with_noise,
    write_noisy,
)


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


def row_of(image: str, way: str, number: int, seconds: float, megapixels: float = 1.0) -> dict[str, Any]:
    """A measurement, half of whose time grows with the pixels."""
    used = {"user_seconds": 9.0, "system_seconds": 1.0, "page_faults": 5, "peak_bytes": 70, "interpreter_bytes": 30}
    inputs = {"image": image, "inputs": {"way": way, "round": number}, "psnr": 30.0}
    return {**inputs, "seconds": seconds, "growing_seconds": seconds / 2, "megapixels": megapixels, **used}


def test_ratios_are_within_a_round() -> None:
    image = "1 megapixels"
    times = (("default", 0, 1), ("passes", 0, 10), ("default", 1, 4), ("passes", 1, 20))
    rows = [row_of(image, *measured) for measured in times]
    (entry,) = summary(rows)
    assert entry["ratio"] == pytest.approx(0.15)
    assert entry["default"]["system_share"] == 0.1
    assert entry["default"]["peak_bytes"] == 40
    assert "ratio" not in summary(rows[:1])[0]


def test_real_passes_that_take_too_long_are_extrapolated_by_pixels_from_an_image_of_the_same_sort() -> None:
    rows = [
        row_of("1 megapixels", "default", 0, 4.0),
        row_of("1 megapixels", "passes", 0, 10.0),
        row_of("24 megapixels", "default", 0, 20.0, 24.0),
        row_of("stack of 2 pages", "passes", 0, 6.0, 0.5),
        row_of("stack of 8 pages", "default", 0, 10.0, 2.0),
    ]
    by_image = {entry["image"]: entry for entry in summary(rows)}
    assert by_image["24 megapixels"]["passes"]["seconds"] == pytest.approx(10 + 24 * 5)
    assert by_image["stack of 8 pages"]["passes"]["seconds"] == pytest.approx(5 + 4 * 3)
    assert by_image["stack of 8 pages"]["extrapolated"]
    lines = page_table(rows)
    assert [line[0] for line in lines[1:]] == ["1 megapixels", "24 megapixels", "stack of 8 pages"]
    assert lines[1][1:4] == ["4.0", "10", "0.40"]
    assert lines[2][2] == "about 130"


def test_pages_of_a_stack_are_other_parts_of_the_photographs() -> None:
    photos = [np.full((512, 512, 3), value, np.uint8) for value in (10, 20, 30)]
    pages = stack_of(photos, 3)
    assert pages.shape == (3, 512, 512, 3)
    assert [int(page.mean()) for page in pages] == [10, 20, 30]


@pytest.mark.parametrize("shape", [(20, 30, 3), (2, 20, 30, 3)])
def test_noise_is_added_to_every_line_of_an_image_and_of_a_stack(shape: tuple[int, ...], tmp_path: Path) -> None:
    case = Case("any", np.full(shape, 128, np.uint8), (), 1)
    noisy = read_pixels(write_noisy(case, 10.0, tmp_path))
    assert noisy.shape == shape
    assert psnr(in_lines(noisy), in_lines(case.clean)) == pytest.approx(20 * math.log10(25.5), abs=0.5)
