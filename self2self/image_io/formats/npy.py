"""NPY, numpy's own format: one array of any shape that is an image or a stack of images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from self2self.image_io.format import (
    STORED_TYPES,
    ArrayPages,
    Format,
    Pages,
    begins_with,
    gathered,
    split_alpha,
)
from self2self.image_io.image import Array, Header, ImageRefused, Metadata, StoredImage

COLOUR_CHANNELS = (1, 3, 4)
"""A last axis of this length holds the channels: grey, RGB, or RGB with alpha."""


def open_npy(path: Path) -> Pages:
    """Open (H, W), (H, W, C), (pages, H, W) or (pages, H, W, C); pages are read from the file one at a time.

    Raises:
        ImageRefused: the array has another shape.
        ValueError: the file is damaged or holds Python objects.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    values, alpha = split_alpha(_as_pages(array))
    return ArrayPages(values, Metadata(header=Header("npy", array.shape)), alpha=alpha)


def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
    """Write the pages in the shape of the source, or in the plainest shape that holds them."""
    array, first = gathered(images, count)
    header = first.metadata.header
    if header is not None and header.format == "npy":
        array = array.reshape(header.content)
    else:
        array = array[0] if count == 1 else array
        array = array[..., 0] if array.shape[-1] == 1 else array
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _as_pages(array: Array) -> Array:
    has_channels = array.ndim >= 3 and array.shape[-1] in COLOUR_CHANNELS
    axes = array.ndim - has_channels
    if axes not in (2, 3) or not array.size:
        raise ImageRefused(
            f"has the shape {array.shape}; expected (H, W), (H, W, channels), (pages, H, W) or (pages, H, W, channels) "
            "with 1, 3 or 4 channels. Save it anew with numpy.reshape."
        )
    shape = array.shape if has_channels else (*array.shape, 1)
    return array.reshape(shape if axes == 3 else (1, *shape))


FORMAT = Format(
    "npy",
    "NPY",
    begins_with(b"\x93NUMPY"),
    (".npy",),
    open_npy,
    write,
    types=STORED_TYPES,
    alpha_channels=frozenset((3,)),
    stacks=True,
    article="an",
)
