"""Images whose values leave little to denoise, or lie at the limits of their type: finite, in range, never worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import self2self
from tests.commands import FAST, run_cli

Array = np.ndarray
ROWS, COLUMNS = np.mgrid[:40, :44]
CLEAN = (0.5 + 0.3 * np.sin(ROWS / 7) * np.cos(COLUMNS / 9))[..., None] * np.ones(3)
NOISY = np.clip(CLEAN + np.random.default_rng(0).normal(0, 0.08, CLEAN.shape), 0.001, 1)
FLAT = np.full((40, 44), 100.0)


def with_dead_channels(values: Array) -> Array:
    """The first channel is saturated, the last one is zero."""
    return np.stack([np.ones_like(values[..., 0]), values[..., 1], np.zeros_like(values[..., 2])], axis=2)


def with_one_row(values: Array) -> Array:
    changed = values.copy()
    changed[20] = np.random.default_rng(1).integers(0, 255, 44)
    return changed


def with_one_pixel(values: Array) -> Array:
    changed = values.copy()
    changed[20, 20] += 1
    return changed


CASES: dict[str, tuple[Array, Array, str, float]] = {
    "constant": (FLAT, FLAT, "uint8", 1),
    "one pixel differs": (with_one_pixel(FLAT), FLAT, "uint8", 1),
    "one row differs": (with_one_row(FLAT), FLAT, "uint8", 1),
    "dead channels": (with_dead_channels(NOISY), with_dead_channels(CLEAN), "uint8", 255),
    "near the limit": (NOISY, CLEAN, "float32", 3.4e38),
    "between both limits": (2 * NOISY - 1, 2 * CLEAN - 1, "float32", 3.4e38),
    "denormal": (NOISY, CLEAN, "float32", 1e-40),
}
"""Noisy, clean, dtype of the file, and the factor between both and its values."""


def stored(values: Array, dtype: str, factor: float) -> Array:
    scaled = values.astype(np.float64) * factor
    return (np.rint(scaled) if np.dtype(dtype).kind == "u" else scaled).astype(dtype)


def assert_no_worse(result: Array, noisy: Array, clean: Array, factor: float) -> None:
    """The error of each channel is not above that of the noisy image."""
    assert result.dtype == noisy.dtype
    assert np.isfinite(result).all()
    assert result.min() >= noisy.min()
    assert result.max() <= noisy.max()
    scaled = [image.reshape(*image.shape[:2], -1).astype(np.float64) / factor for image in (result, noisy, clean)]
    errors = [np.sqrt(np.mean((image - scaled[2]) ** 2, axis=(0, 1))) for image in scaled[:2]]
    assert (errors[0] <= errors[1] + 1e-12).all(), errors


@pytest.mark.parametrize("case", CASES)
def test_the_command(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, clean, dtype, factor = CASES[case]
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("noisy.tif", stored(noisy, dtype, factor), photometric="rgb" if noisy.ndim > 2 else "minisblack")
    run_cli("denoise", "noisy.tif", *FAST)
    result = tifffile.imread("noisy.denoised.tif")
    assert_no_worse(result, stored(noisy, dtype, factor), stored(clean, dtype, factor), factor)


@pytest.mark.parametrize("factor", [1.7e308, 1e-310])
def test_from_python_in_64_bits(factor: float) -> None:
    result = self2self.denoise(NOISY * factor, fit_options=self2self.FitOptions(steps=1)).image
    assert_no_worse(np.asarray(result), NOISY * factor, CLEAN * factor, factor)


def test_dead_channels_in_passes_have_no_uncertainty() -> None:
    noisy = with_dead_channels(NOISY)
    options = self2self.FitOptions(steps=1)
    done = self2self.denoise(noisy, passes=2, uncertainty=True, fit_options=options)
    assert_no_worse(np.asarray(done.image), noisy, with_dead_channels(CLEAN), 1)
    assert done.uncertainty is not None
    assert (done.uncertainty[..., [0, 2]] == 0).all()
    assert (done.uncertainty[..., 1] > 0).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_one_pixel_and_one_row_are_refused(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full(size, 7, np.uint8)).save("noisy.png")
    error = run_cli("denoise", "noisy.png", *FAST, expect=3).stderr
    assert "expected at least 8x8" in error
    assert sorted(tmp_path.iterdir()) == [tmp_path / "noisy.png"]
