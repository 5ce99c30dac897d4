"""Noise that the colour channels share: grey stored as RGB, luminance noise, JPEGs with colours at half resolution.

Each result of `denoise` is compared with the clean image. Few steps suffice for that; one fit is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from skimage.restoration import denoise_nl_means

from tests.commands import run_cli

Levels = NDArray[np.float64]
SIZE = 128
FEW = ("--steps", "30")


def photograph() -> Levels:
    """(128, 128, 3), 0 to 255."""
    return data.astronaut()[:SIZE, 160 : 160 + SIZE].astype(float)


def saved(path: Path, levels: Levels, **options: Any) -> Path:
    Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8)).save(path, **options)
    return path


def decibels(path: Path, clean: Levels) -> float:
    return float(10 * np.log10(255**2 / np.mean(np.square(np.asarray(Image.open(path), float) - clean))))


def denoised(path: Path, steps: tuple[str, ...] = FEW) -> tuple[Path, str]:
    """The result of `denoise`, and the notes."""
    result = run_cli("denoise", str(path), "--passes", "12", "-o", "out.png", "--force", *steps)
    return Path("out.png"), result.stderr


@pytest.mark.slow
def test_grey_stored_as_rgb_is_as_good_as_one_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clean = photograph().mean(2)
    noisy = clean + np.random.default_rng(0).normal(0, 20, clean.shape)
    alone = decibels(denoised(saved(tmp_path / "grey.png", noisy))[0], clean)
    result, notes = denoised(saved(tmp_path / "rgb.png", np.repeat(noisy[..., None], 3, 2)))
    assert decibels(result, np.repeat(clean[..., None], 3, 2)) > alone - 0.3
    assert np.ptp(np.asarray(Image.open(result)), axis=2).max() == 0, "it stays grey"
    assert "the colour channels share their noise" in notes


@pytest.mark.slow
def test_luminance_noise_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clean, rng = photograph(), np.random.default_rng(0)
    path = saved(tmp_path / "noisy.png", clean + rng.normal(0, 20, (*clean.shape[:2], 1)))
    result, notes = denoised(path)
    assert decibels(result, clean) > decibels(path, clean) + 5
    assert "the colour channels share their noise" in notes


def best_of_non_local_means(path: Path, clean: Levels) -> float:
    """PSNR of non-local means at the level that suits the clean image best, as no user can choose it."""
    noisy = np.asarray(Image.open(path), np.float32) / 255
    options = {"patch_size": 5, "patch_distance": 6, "channel_axis": 2}
    results = (denoise_nl_means(noisy, h=0.8 * level / 255, sigma=level / 255, **options) for level in (6, 9, 13, 18))
    return max(float(10 * np.log10(255**2 / np.mean(np.square(255 * result - clean)))) for result in results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quality", "sigma", "expected", "steps"), [(75, 15, 31.1, ()), (90, 20, 30.5, FEW), (97, 20, 30.7, FEW)]
)
def test_a_jpeg_is_denoised_better_than_by_non_local_means(
    quality: int, sigma: float, expected: float, steps: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clean = photograph()
    noisy = clean + np.random.default_rng(0).normal(0, sigma, clean.shape)
    path = saved(tmp_path / "noisy.jpg", noisy, quality=quality, subsampling="4:2:0")
    result, notes = denoised(path, steps)
    # FFDNet, told the level that suits the clean image best, has 0.6 dB more than `expected`.
    assert decibels(result, clean) > expected
    assert decibels(result, clean) > best_of_non_local_means(path, clean) + 0.5
    assert "the colour channels share their noise" in notes
