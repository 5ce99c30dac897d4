"""Images whose numbers or sizes are extreme: the result is finite, and within the range of the image."""

from __future__ import annotations

import numpy as np
import pytest

from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model

RANDOM = np.random.default_rng(0)
OPTIONS = EnsembleOptions(engine="ort", passes=2, batch=1, uncertainty=True)


def uniform(height: int = 20, width: int = 24) -> np.ndarray:
    return RANDOM.random((3, height, width), dtype=np.float32)


def with_channel(value: float) -> np.ndarray:
    pixels = uniform()
    pixels[1] = value
    return pixels


IMAGES = {
    "black": np.zeros((3, 20, 24), np.float32),
    "white": np.ones((3, 20, 24), np.float32),
    "grey": np.full((3, 20, 24), 0.5, np.float32),
    "one channel saturated": with_channel(1),
    "one channel zero": with_channel(0),
    "denormals": uniform() * np.float32(1e-40),
    "one pixel": uniform(1, 1),
    "one row": uniform(1, 40),
    "one column": uniform(40, 1),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_result_is_finite_and_in_range(name: str, tiny_model: Model) -> None:
    pixels = IMAGES[name]
    result = denoise_pixels(tiny_model, pixels.copy(), OPTIONS)
    assert result.image.shape == pixels.shape
    assert result.image.dtype == np.float32
    assert np.isfinite(result.image).all()
    assert result.uncertainty is not None
    assert np.isfinite(result.uncertainty).all()
    assert result.image.min() >= 0
    assert result.image.max() <= 1


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_a_value_near_the_float_limit_spoils_nothing(value: float, tiny_model: Model) -> None:
    """It stands alone, so it is a hot pixel; the rest of the image is what it is without it."""
    pixels = uniform()
    pixels[0, 10, 11] = value
    result = denoise_pixels(tiny_model, pixels, OPTIONS)
    assert np.isfinite(result.image).all()
    # What lies beside the pixel sees another image.
    assert result.image[:, :, :4].min() >= 0
    assert result.image[:, :, :4].max() <= 1
