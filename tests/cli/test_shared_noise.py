"""Noise that the colour channels share: grey stored as RGB, luminance noise, JPEGs with colours at half resolution.

Each result of the default `denoise` is compared with the clean image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from tests.commands import run_cli

Levels = NDArray[np.float64]
SIZE = 128


def photograph() -> Levels:
    """(128, 128, 3), 0 to 255."""
    return data.astronaut()[:SIZE, 160 : 160 + SIZE].astype(float)


def saved(path: Path, levels: Levels, **options: Any) -> Path:
    Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8)).save(path, **options)
    return path


def decibels(path: Path, clean: Levels) -> float:
    return float(10 * np.log10(255**2 / np.mean(np.square(np.asarray(Image.open(path), float) - clean))))


def denoised(path: Path) -> tuple[Path, str]:
    """The result of `denoise`, and the notes."""
    result = run_cli("denoise", str(path), "--passes", "12", "-o", "out.png", "--force")
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
@pytest.mark.parametrize("kind", ["luminance", "jpeg"])
def test_noise_that_channels_share_is_removed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clean, rng = photograph(), np.random.default_rng(0)
    if kind == "jpeg":
        noisy = clean + rng.normal(0, 20, clean.shape)
        path = saved(tmp_path / "noisy.jpg", noisy, quality=95, subsampling="4:2:0")
    else:
        path = saved(tmp_path / "noisy.png", clean + rng.normal(0, 20, (*clean.shape[:2], 1)))
    before = decibels(path, clean)
    result, notes = denoised(path)
    assert decibels(result, clean) > before + 5
    assert "the colour channels share their noise" in notes
