"""Reads and writes image files: file ↔ float32 array, with everything that the output shares with the input.

    image = read_image("noisy.tif")              # image.pixels: float32 (C, H, W), bulk in [0, 1]
    write_image("clean.tif", denoised, image)    # same type, depth, alpha, profile, orientation

The modules:

- `image`: the data classes; `value_range`: stored values ↔ [0, 1].
- `format`: what a format is; `formats`: the table of all formats, and those that need a library of their own.
- `read`, `write`: single images; `stack`: files of several pages; `missing`: pixels without a measurement.
- `png`, `tiff`, `pillow_formats`: decoders and encoders. `jpeg_end` serves JPEG; `tiff_format`, `tiff_file`,
  `tiff_pages`, `tiff_segments` and `exif` serve TIFF.
"""

from self2self.image_io.image import MAX_PIXELS, MIN_SIDE, Image, Metadata, TiffLayout
from self2self.image_io.read import check_readable, image_hash, read_image
from self2self.image_io.stack import ARRAY, Stack, check_stack_output, open_stack, stack_of_array
from self2self.image_io.write import (
    EXTENSIONS,
    check_output,
    default_output,
    is_result_name,
    write_float_map,
    write_image,
)

__all__ = [
    "ARRAY",
    "EXTENSIONS",
    "MAX_PIXELS",
    "MIN_SIDE",
    "Image",
    "Metadata",
    "Stack",
    "TiffLayout",
    "check_output",
    "check_readable",
    "check_stack_output",
    "default_output",
    "image_hash",
    "is_result_name",
    "open_stack",
    "read_image",
    "stack_of_array",
    "write_float_map",
    "write_image",
]
