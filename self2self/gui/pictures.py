"""Pictures that the page shows: PNG files of 8 bits, upright, of a noisy image and of its result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from self2self.image_io import open_stack
from self2self.image_io.exif import ORIENTATION
from self2self.imaging.noise import center_crop
from self2self.imaging.picture import PREVIEW_SIDE, picture_of, png_of

MAX_SHOWN_PIXELS = 50_000_000
"""Largest picture; a larger one is reduced, as browsers do not open pictures of any size."""

COMPRESSION = 1
"""zlib's level: the pictures do not leave the computer, and noise is hardly compressible."""

FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, ROTATE_90, ROTATE_180, ROTATE_270, TRANSPOSE, TRANSVERSE = range(7)
"""The members of Pillow's `Transpose`, which is not loaded here."""
UPRIGHT = {
    2: FLIP_LEFT_RIGHT,
    3: ROTATE_180,
    4: FLIP_TOP_BOTTOM,
    5: TRANSPOSE,
    6: ROTATE_270,
    7: TRANSVERSE,
    8: ROTATE_90,
}
"""What makes a picture of an orientation of EXIF upright."""


def orientation_of(path: Path) -> int:
    """The orientation that a camera has written into the header of a file, 1 (upright) to 8; 1 if Pillow sees none."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            return int(file.getexif().get(ORIENTATION, 1))
    except Exception:
        # Pillow raises exceptions of any class; and it reads fewer formats than this package.
        return 1


def png(pixels: NDArray[np.floating], orientation: int = 1) -> bytes:
    """The picture of float (C, H, W) pixels in [0, 1], which were taken in `orientation`."""
    from PIL import Image

    picture = picture_of(pixels)
    factor = 1
    while picture.width * picture.height > MAX_SHOWN_PIXELS * factor**2:
        factor += 1
    if factor > 1:
        picture = picture.reduce(factor)
    if orientation in UPRIGHT:
        picture = picture.transpose(Image.Transpose(UPRIGHT[orientation]))
    return png_of(picture, compression=COMPRESSION)


def middle(source: Path, orientation: int) -> bytes:
    """The picture of the middle of a file's first page, which a preview of the fit shows, too.

    Raises:
        InputError, ResourceError: the file cannot be read.
    """
    with open_stack(source) as stack:
        return png(center_crop(stack.read_page(0).pixels, PREVIEW_SIDE), orientation)


def pair(source: Path, result: Path, page: int, orientation: int) -> list[bytes]:
    """The pictures of one page of two files, both in the range of values of the first.

    Args:
        source: the noisy file.
        result: the denoised file.
        page: number of the page, from 0.
        orientation: as `orientation_of`.
    """
    with open_stack(source) as stack:
        noisy = stack.read_page(page)
        mosaic = noisy.mosaic
    shown = png(noisy.pixels, orientation)
    offset, scale = noisy.offset, noisy.scale
    del noisy
    with open_stack(result, mosaic=mosaic) as stack:
        clean = stack.read_page(page)
    pixels = clean.pixels
    pixels *= np.float32(clean.scale / scale)
    pixels += np.float32((clean.offset - offset) / scale)
    return [shown, png(pixels, orientation)]
