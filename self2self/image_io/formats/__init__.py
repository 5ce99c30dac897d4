"""The table of file formats: adding a format is one file with its `Format`, and one row here."""

from __future__ import annotations

from self2self.image_io import pillow_formats, png, tiff_format
from self2self.image_io.format import Format
from self2self.image_io.formats import (
    avif,
    camera_raw,
    dicom,
    exr,
    fits,
    foreign,
    heic,
    jpeg_xl,
    mrc,
    netpbm,
    nifti,
    npy,
)

FORMATS: tuple[Format, ...] = (
    png.FORMAT,
    # Before TIFF: most camera raw files are TIFFs whose first page is a preview.
    camera_raw.FORMAT,
    tiff_format.FORMAT,
    pillow_formats.JPEG,
    pillow_formats.WEBP,
    pillow_formats.BMP,
    # Before HEIC: both share a brand.
    avif.FORMAT,
    heic.FORMAT,
    jpeg_xl.FORMAT,
    exr.FORMAT,
    fits.FORMAT,
    dicom.FORMAT,
    mrc.FORMAT,
    nifti.FORMAT,
    netpbm.FORMAT,
    npy.FORMAT,
    *foreign.FORMATS,
)
"""The first format that recognises a file reads it."""

BY_NAME = {file_format.name: file_format for file_format in FORMATS}
BY_EXTENSION = {
    extension: file_format
    for file_format in FORMATS
    if file_format.write is not None
    for extension in file_format.extensions
}
"""Formats that can be written, by their extensions in lower case."""


def format_named(name: str) -> Format:
    """The format with the name `name`."""
    return BY_NAME[name]
