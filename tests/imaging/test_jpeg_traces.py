"""Traces of JPEG in pixels: its steps are found on any grid, and in no other image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from skimage import data

from self2self.imaging.jpeg_traces import quantisation_step
from self2self.train.synthetic_noise import as_jpeg

# The steps of the lowest frequencies of the luminance at quality 50 (ISO/IEC 10918-1, table K.1).
STEPS_AT_50 = np.array([11, 12, 12, 10, 14, 14, 13])


def photograph(sigma: float = 0.0, side: int = 160) -> np.ndarray:
    clean = data.astronaut()[100 : 100 + side, 150 : 150 + side].transpose(2, 0, 1) / 255
    noise = np.random.default_rng(3).normal(0, sigma / 255, clean.shape)
    return np.clip(clean + noise, 0, 1).astype(np.float32)


@pytest.mark.parametrize("quality", [30, 60, 75, 90])
@pytest.mark.parametrize("sigma", [0, 10])
def test_steps_are_those_of_the_table(quality: int, sigma: int) -> None:
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = np.floor((STEPS_AT_50 * scale + 50) / 100)
    found = quantisation_step(as_jpeg(photograph(sigma), quality))
    assert found == pytest.approx(np.exp(np.log(steps).mean()), rel=0.3)


@settings(max_examples=20)
@given(down=st.integers(0, 7), right=st.integers(0, 7), grey=st.booleans(), low=st.floats(0, 0.3))
def test_grid_and_range_do_not_matter(down: int, right: int, grey: bool, low: float) -> None:
    stored = as_jpeg(photograph()[:1] if grey else photograph(), 75)[:, down:, right:]
    assert quantisation_step((stored - low) / (1.5 - low), 255 * (1.5 - low)) == pytest.approx(6.3, abs=0.7)


@pytest.mark.parametrize("sigma", [0, 3, 25])
def test_other_images_have_no_traces(sigma: int) -> None:
    noisy = np.rint(255 * photograph(sigma)) / 255
    assert quantisation_step(noisy) == 0
    assert quantisation_step(np.zeros((3, 64, 64))) == 0
    assert quantisation_step(np.round(noisy[:, :64, :64] * 8) / 8) == 0, "few grey levels are no steps of coefficients"


def test_a_scaled_jpeg_has_lost_its_traces() -> None:
    small = zoom(as_jpeg(photograph(side=320), 60), (1, 0.5, 0.5), order=1)
    assert quantisation_step(np.rint(255 * small) / 255) == 0


@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.sampled_from([1, 3, 4]))
def test_small_images(height: int, width: int, channels: int) -> None:
    assert quantisation_step(np.random.default_rng(0).random((channels, height, width))) == 0
