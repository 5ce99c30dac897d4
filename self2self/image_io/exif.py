"""Converts EXIF data between TIFF, where its tags are part of the file, and other formats, where it is one block."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO

ORIENTATION = 274
IMAGE_TAGS = frozenset((270, 271, 272, ORIENTATION, 305, 306, 315, 33432))
"""Description, make, model, orientation, software, date, artist, copyright: the tags that TIFF and EXIF share."""

SUB_DIRECTORIES = (34665, 34853)
"""Tags that point to the EXIF directory and to the GPS directory."""

_PREFIX = b"Exif\0\0"


def without_prefix(exif: bytes | None) -> bytes | None:
    """Strip the "Exif" prefix of JPEG from the block `exif`, a TIFF structure; None if nothing remains."""
    while exif is not None and exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    return exif or None


def read_tags(exif: bytes | None) -> tuple[dict[int, Any], dict[int, dict[int, Any]]]:
    """Read a block: image tags by number, and the EXIF and GPS directories by the tag that points to them.

    A damaged block yields the tags that can be read, perhaps none. Damaged EXIF data are no reason to refuse an image.
    """
    from PIL import Image as PillowImage

    image_tags: dict[int, Any] = {}
    directories: dict[int, dict[int, Any]] = {}
    if exif is None:
        return image_tags, directories
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            block = PillowImage.Exif()
            block.load(exif)
            _collect_writable_tags(block, image_tags, directories)
        except Exception:  # noqa: S110  (Pillow raises exceptions of any class on damaged blocks)
            pass
    return image_tags, directories


def orientation(exif: bytes | None) -> int:
    """The orientation in a block, 1 (upright) to 8 as in the EXIF standard; 1 if the block has none."""
    value = read_tags(exif)[0].get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read_from_tiff(path: Path, byteorder: str, bigtiff: bool, offset: int) -> bytes | None:
    """The EXIF data of the TIFF directory at `offset` as a block; None if the directory has none of the tags.

    Args:
        path: the TIFF.
        byteorder: of the TIFF, ``"<"`` or ``">"``.
        bigtiff: whether the file is a BigTIFF.
        offset: of the directory, in bytes.
    """
    from PIL import Image as PillowImage

    if bigtiff and byteorder == ">":
        # Pillow mistakes a big-endian BigTIFF for a classic TIFF.
        return None
    image_tags: dict[int, Any] = {}
    directories: dict[int, dict[int, Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            block = PillowImage.Exif()
            block.endian, block.bigtiff = byteorder, bigtiff
            with path.open("rb") as file:
                block.load_from_fp(file, offset)
                _collect_writable_tags(block, image_tags, directories)
            if not image_tags and not directories:
                return None
            result = PillowImage.Exif()
            result.endian = byteorder
            for tag, value in image_tags.items():
                result[tag] = value
            for tag, directory in directories.items():
                result.get_ifd(tag).update(directory)
            return without_prefix(result.tobytes())
        except Exception:
            return None


def orientation_block(value: int) -> bytes | None:
    """A block that holds only the orientation `value`; None for 1 (upright)."""
    if value == 1:
        return None
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, ORIENTATION, 3, 1, value, 0, 0)


def upright(exif: bytes | None) -> bytes | None:
    """A copy of a block for pixels that were turned upright; a damaged block is dropped."""
    from PIL import Image as PillowImage

    if exif is None or orientation(exif) == 1:
        return exif
    block = PillowImage.Exif()
    try:
        block.load(exif)
        block[ORIENTATION] = 1
        return without_prefix(block.tobytes())
    except Exception:
        return None


def append_directories(file: BinaryIO, directories: dict[int, dict[int, Any]]) -> None:
    """Append the EXIF and GPS directories to a TIFF and turn its placeholder tags into pointers to them.

    A placeholder is a LONG tag whose number is one less than that of the pointer: tifffile itself writes no pointers.

    Args:
        file: the TIFF, open for reading and writing.
        directories: for each pointer's tag number, the tags of the directory.
    """
    import tifffile
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    head = file.read(16)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        order, head = tiff.byteorder, head[: 16 if tiff.is_bigtiff else 8]
        found = tiff.pages.first.tags
        places = {tag: (found[tag - 1].offset, found[tag - 1].valueoffset) for tag in directories}
    for tag, content in directories.items():
        directory = ImageFileDirectory_v2(head, group=tag)
        for number, value in content.items():
            directory[number] = value
        end = file.seek(0, os.SEEK_END)
        # Directories begin at even offsets.
        begin = end + end % 2
        file.write(bytes(end % 2) + directory.tobytes(begin))
        entry, pointer = places[tag]
        for place, value in ((entry, struct.pack(order + "H", tag)), (pointer, struct.pack(order + "I", begin))):
            file.seek(place)
            file.write(value)


def _collect_writable_tags(block: Any, image_tags: dict[int, Any], directories: dict[int, dict[int, Any]]) -> None:
    """Add the tags of Pillow's `block` to `image_tags` and `directories`, as far as Pillow can write them."""
    image_tags.update({tag: block[tag] for tag in IMAGE_TAGS if tag in block})
    for pointer in SUB_DIRECTORIES:
        # Tag 40965 (interoperability) is an offset into the source file, which means nothing in the output.
        content = {
            tag: value
            for tag, value in block.get_ifd(pointer).items()
            if tag != 40965 and _is_writable(pointer, tag, value)
        }
        if content:
            directories[pointer] = content


def _is_writable(group: int, tag: int, value: Any) -> bool:
    """Whether Pillow can write the value; from damaged blocks it reads values that it cannot write."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2(group=group)
    try:
        directory[tag] = value
        directory.tobytes()
    except Exception:
        return False
    return True
