"""What self2self knows of a file format, in one object: how to recognise, open and write it, and what it can hold.

A format is a module with one `Format`, and a row of the table in `formats/__init__.py`. The libraries that it needs are
imported inside its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from self2self.image_io.image import Array, Image, ImageRefused, Metadata, StoredImage, check_size

HEAD_BYTES = 1024
"""How many bytes from the start of a file `Format.recognises` gets; fewer if the file is smaller."""

INTEGERS = frozenset(("uint8", "int8", "uint16", "int16", "uint32", "int32"))
FLOATS = frozenset(("float16", "float32", "float64"))
STORED_TYPES = INTEGERS | FLOATS
"""Sample types that self2self processes."""


class Pages(Protocol):
    """An open file.

    Attributes:
        count: number of pages, at least 1.
        notes: notes for the user about the file as a stack, one line each.
    """

    count: int
    notes: tuple[str, ...]

    def read(self, index: int) -> StoredImage:
        """Decode page `index`, counted from 0.

        Raises:
            ImageRefused: the page cannot be used.
            Exception: of any other class, if it is damaged.
        """

    def close(self) -> None:
        """Close the file; safe to call twice."""


@dataclass(frozen=True, slots=True)
class Format:
    """A file format.

    Attributes:
        name: as `Image.format`.
        title: for messages, after `article`: "is an OpenEXR file".
        recognises: whether a file is of this format, from its first `HEAD_BYTES` bytes and, where these leave it open,
            from the file itself.
        extensions: with their dots, in lower case; the first is given to new files.
        open: opens a file, and raises as `Pages.read`; None if self2self only knows the name.
        write: writes images of one size and type as the pages of a file that may be replaced; None for formats that
            are only read.
        types: names of the dtypes that a file can hold.
        channels: numbers of colour channels that a file can hold.
        alpha_channels: numbers of colour channels beside which a file can hold alpha.
        stacks: whether a file can hold several pages.
        cannot_hold: what else of an image a file cannot hold, in words; None if it can hold the image.
        develop: makes an ordinary RGB image of one of this format, for files of other formats; None where they hold the
            same samples.
        needs: name of the module that `open` and `write` import; empty if self2self always has it.
        extra: extra of self2self that installs this module.
        article: "a" or "an".
    """

    name: str
    title: str
    recognises: Callable[[bytes, Path], bool]
    extensions: tuple[str, ...] = ()
    open: Callable[[Path], Pages] | None = None
    write: Callable[[Path, Iterable[StoredImage], int], None] | None = None
    types: frozenset[str] = frozenset(("uint8",))
    channels: frozenset[int] = frozenset((1, 3))
    alpha_channels: frozenset[int] = frozenset()
    stacks: bool = False
    cannot_hold: Callable[[Image], str | None] = lambda image: None
    develop: Callable[[StoredImage], StoredImage] | None = None
    needs: str = ""
    extra: str = ""
    article: str = "a"

    @property
    def in_words(self) -> str:
        """The name with its article, such as "an OpenEXR file"."""
        return f"{self.article} {self.title} file"

    @property
    def install_command(self) -> str:
        """What installs the module that the format needs."""
        return f"pip install 'self2self[{self.extra}]'"

    @property
    def is_installed(self) -> bool:
        """Whether the module that the format needs is there."""
        from importlib.util import find_spec

        return not self.needs or find_spec(self.needs) is not None


def begins_with(*signatures: bytes, at: int = 0) -> Callable[[bytes, Path], bool]:
    """A `Format.recognises` for files that have one of `signatures` at the offset `at`."""
    return lambda head, path: head[at:].startswith(signatures)


def check_type(dtype: np.dtype[Any]) -> None:
    """Refuse sample types that self2self does not process.

    Raises:
        ImageRefused: names the type.
    """
    if dtype.name not in STORED_TYPES:
        raise ImageRefused(
            f"has pixels of type {dtype.name}; expected integers of 8, 16 or 32 bits or floats of 16, 32 "
            "or 64 bits. Convert it to float32."
        )


class OneImage:
    """The pages of a format that has only one; `decode` returns it."""

    count = 1
    notes: tuple[str, ...] = ()

    def __init__(self, decode: Callable[[], StoredImage]) -> None:
        self._decode = decode

    def read(self, index: int) -> StoredImage:
        """As `Pages.read`."""
        return self._decode()

    def close(self) -> None:
        """Do nothing: no file is kept open."""


class ArrayPages:
    """The pages of a format whose files are read as one array.

    Args:
        values: (pages, H, W, C), the stored dtype in any byte order; it may be mapped from the file.
        metadata: of every page.
        alpha: (pages, H, W), same dtype.
        missing: (pages, H, W), as `StoredImage.missing`; None if the source has no mask.
        nodata: as `StoredImage.nodata`.
        image_notes: as `StoredImage.notes`, of every page.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        values: Array,
        metadata: Metadata,
        *,
        alpha: Array | None = None,
        missing: Array | None = None,
        nodata: float | None = None,
        image_notes: tuple[str, ...] = (),
    ) -> None:
        check_type(values.dtype)
        check_size(values.shape[2], values.shape[1])
        self.count = len(values)
        self._values, self._alpha, self._missing = values, alpha, missing
        self._metadata, self._nodata, self._image_notes = metadata, nodata, image_notes

    def read(self, index: int) -> StoredImage:
        """As `Pages.read`."""
        alpha, missing = (None if all_pages is None else all_pages[index] for all_pages in (self._alpha, self._missing))
        values = np.ascontiguousarray(self._values[index], self._values.dtype.newbyteorder("="))
        notes, nodata = self._image_notes, self._nodata
        return StoredImage(values, alpha, self._metadata, notes=notes, nodata=nodata, missing=missing)

    def close(self) -> None:
        """Do nothing: no file is kept open."""


def opens_with(decode: Callable[[bytes], StoredImage]) -> Callable[[Path], Pages]:
    """A `Format.open` for files with one image, which `decode` makes of the bytes of the file."""
    return lambda path: OneImage(lambda: decode(path.read_bytes()))


def writes_with(encode: Callable[[StoredImage], bytes]) -> Callable[[Path, Iterable[StoredImage], int], None]:
    """A `Format.write` for files with one image, of which `encode` makes the bytes of the file."""

    def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
        (image,) = images
        path.write_bytes(encode(image))

    return write


def gathered(images: Iterable[StoredImage], count: int) -> tuple[Array, StoredImage]:
    """Put `count` pages of one size and type into one array, for formats that are written at once.

    Returns:
        (pages, H, W, C), with alpha as the last channel if there is one; and the first page, for its metadata.
    """
    pages: Iterator[StoredImage] = iter(images)
    first = next(pages)
    values = with_alpha(first)
    array = np.empty((count, *values.shape), values.dtype)
    array[0] = values
    for index, page in enumerate(pages, 1):
        array[index] = with_alpha(page)
    return array, first


def split_alpha(samples: Array) -> tuple[Array, Array | None]:
    """Split samples (..., C) into colours, 1 or 3 channels, and alpha (...), the last of 2 or 4 channels."""
    if samples.shape[-1] in (2, 4):
        return samples[..., :-1], samples[..., -1]
    return samples, None


def with_alpha(image: StoredImage) -> Array:
    """The samples (H, W, C) with alpha as the last channel, if there is one."""
    if image.alpha is None:
        return image.values
    return np.concatenate([image.values, image.alpha[..., None]], axis=2)
