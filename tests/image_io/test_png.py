"""Encoding of PNG files."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import pytest

from self2self.image_io import png
from self2self.image_io.image import Metadata, StoredImage


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_image_is_encoded_in_bands(
    monkeypatch: pytest.MonkeyPatch, channels: int, dtype: type[np.unsignedinteger[Any]]
) -> None:
    """libpng decodes the bands as one image, whatever filters it chose for their rows."""
    rng = np.random.default_rng(channels)
    smooth = np.add.outer(np.arange(67), 3 * np.arange(40))[..., None] * np.arange(1, channels + 1)
    samples = (smooth + rng.integers(0, 9, smooth.shape)).astype(dtype)
    alpha = samples[..., -1] if channels in (2, 4) else None
    stored = StoredImage(samples if alpha is None else samples[..., :-1], alpha, Metadata())
    whole = png.encode(stored)
    monkeypatch.setattr(png, "BAND_BYTES", 10 * samples[0].nbytes)
    monkeypatch.setattr(png, "BANDS_AT_A_TIME", 3)
    bands = png.encode(stored)
    assert bands.count(b"IDAT") == 7 > whole.count(b"IDAT")
    np.testing.assert_array_equal(imagecodecs.png_decode(bands), imagecodecs.png_decode(whole))
    decoded = png.decode(bands)
    np.testing.assert_array_equal(decoded.values, stored.values)
    assert not decoded.notes
