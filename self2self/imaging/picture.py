"""Pictures of 8 bits that people look at, of pixels in [0, 1]."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

PREVIEW_SIDE = 384
"""Largest side of the preview of a fit, which shows the middle of the image, in pixels."""


def picture_of(pixels: NDArray[np.floating]) -> Image.Image:
    """A picture of 8 bits, grey or RGB.

    Args:
        pixels: float (C, H, W); C is 1, 3 or 4 (CMYK). Values outside [0, 1], such as stars, become its nearest end.
    """
    from PIL import Image

    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[levels.shape[2]]
    picture = Image.fromarray(np.ascontiguousarray(levels[..., 0] if mode == "L" else levels), mode)
    return picture.convert("RGB") if mode == "CMYK" else picture


def png_of(picture: Image.Image, *, compression: int = 6) -> bytes:
    """The PNG file of `picture`; `compression` is zlib's level, from 0 to 9."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=compression)
    return buffer.getvalue()
