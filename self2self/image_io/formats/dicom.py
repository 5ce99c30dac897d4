"""DICOM, the format of medical imaging, through pydicom.

Values are those that are stored: slope and intercept stay in the header and hold for the output, too. The output is not
compressed, and is a derived image with an identifier (SOP instance) of its own, as the standard asks for.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from self2self.image_io.format import INTEGERS, ArrayPages, Format, Pages, begins_with, gathered
from self2self.image_io.image import Header, Image, ImageRefused, Metadata, StoredImage

_GREY = ("MONOCHROME1", "MONOCHROME2")


def open_dicom(path: Path) -> Pages:
    """Open a file; its frames are pages.

    Raises:
        ImageRefused: the file has no pixels, a palette or single bits.
        Exception: of any other class, if it is damaged or no decoder for its compression is installed.
    """
    import pydicom

    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise ImageRefused("has no pixels; expected an image. Choose another file of the series.")
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR" or dataset.BitsAllocated < 8:
        raise ImageRefused(
            f"has {dataset.BitsAllocated}-bit pixels of the kind {kind}; expected grey or RGB of 8 bits or more."
        )
    values = dataset.pixel_array
    values = values.reshape(-1, dataset.Rows, dataset.Columns, 1 if kind in _GREY else 3)
    notes = []
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        notes.append("its compression is not kept; the result is not compressed")
    del dataset.PixelData
    return ArrayPages(
        values,
        Metadata(header=Header("dicom", dataset)),
        nodata=_padding_value(dataset, values.dtype),
        image_notes=tuple(notes),
    )


def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
    """Write the pages as frames with the header of the source; only a source that is DICOM has one.

    Values that the rounding of a denoised image put beyond the stored bits are clipped to them.
    """
    import pydicom.uid

    array, first = gathered(images, count)
    array = array[..., 0] if array.shape[-1] == 1 else array
    header = first.metadata.header
    assert header is not None  # noqa: S101 - `_cannot_hold` refuses the others
    dataset = copy.deepcopy(header.content)
    kind = str(dataset.PhotometricInterpretation)
    array = np.clip(array, *_stored_limits(dataset))
    dataset.set_pixel_data(
        array[0] if count == 1 and "NumberOfFrames" not in dataset else array,
        kind if kind in _GREY else "RGB",
        dataset.BitsStored,
        generate_instance_uid=False,
    )
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    identifier = pydicom.uid.generate_uid(entropy_srcs=[str(dataset.get("SOPInstanceUID", "")), digest])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = identifier
    dataset.ImageType = ["DERIVED", *list(dataset.get("ImageType", ["", "PRIMARY"]))[1:]]
    dataset.save_as(path, enforce_file_format=True)


def _stored_limits(dataset: Any) -> tuple[int, int]:
    bits = int(dataset.BitsStored)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if dataset.PixelRepresentation else (0, (1 << bits) - 1)


def _padding_value(dataset: Any, dtype: np.dtype[Any]) -> float | None:
    """PixelPaddingValue as a stored value; some files have its bits as a number of the other sign."""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limits = np.iinfo(dtype)
    span = limits.max - limits.min + 1
    return float((value - limits.min) % span + limits.min)


def _cannot_hold(image: Image) -> str | None:
    header = image.metadata.header
    return None if header is not None and header.format == "dicom" else "images of other formats or maps"


FORMAT = Format(
    "dicom",
    "DICOM",
    begins_with(b"DICM", at=128),
    (".dcm", ".dicom"),
    open_dicom,
    write,
    types=INTEGERS,
    stacks=True,
    cannot_hold=_cannot_hold,
    needs="pydicom",
    extra="formats",
)
