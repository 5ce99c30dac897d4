"""Image files: file ↔ float32 array, with everything that the output must share with the input.

    image = read_image("noisy.tif")              # image.pixels: float32 (C, H, W), bulk in [0, 1]
    write_image("clean.tif", denoised, image)    # same type, depth, alpha, profile, orientation

PNG, TIFF, JPEG, WebP and BMP. One file of this package per purpose: `image` (what is known of an
image), `normalise` (stored values ↔ [0, 1]), `read`, `write`, and the formats `png`, `tiff`
(with `exif`) and `pillow_formats`.
"""

from self2self.image_io.image import MAX_PIXELS, MIN_SIDE, Image, Metadata, TiffLayout
from self2self.image_io.read import image_hash, read_image
from self2self.image_io.write import (
    EXTENSIONS,
    check_output,
    default_output,
    write_float_map,
    write_image,
)

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "MIN_SIDE",
    "Image",
    "Metadata",
    "TiffLayout",
    "check_output",
    "default_output",
    "image_hash",
    "read_image",
    "write_float_map",
    "write_image",
]
