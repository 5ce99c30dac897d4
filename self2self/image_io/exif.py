"""EXIF between TIFF, where its tags are part of the file, and the other formats, where it is one block."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO

ORIENTATION = 274
IMAGE_TAGS = frozenset((270, 271, 272, ORIENTATION, 305, 306, 315, 33432))
"""Description, make, model, orientation, software, date, artist, copyright: TIFF tags that EXIF shares."""

SUB_DIRECTORIES = (34665, 34853)
"""Tags that point to the EXIF and the GPS directory."""

_PREFIX = b"Exif\0\0"


def bare(exif: bytes | None) -> bytes | None:
    """`exif` as a TIFF structure, without the prefix that JPEG puts before it; None if nothing is left."""
    while exif is not None and exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    return exif or None


def tags(exif: bytes | None) -> tuple[dict[int, Any], dict[int, dict[int, Any]]]:
    """Image tags by number, and the EXIF and GPS directories by the tag that points to them.

    A damaged block yields what could be read, perhaps nothing: it is no reason to refuse an image.
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
            _collect(block, image_tags, directories)
        except Exception:  # noqa: S110  (Pillow raises whatever the damage leads to)
            pass
    return image_tags, directories


def orientation(exif: bytes | None) -> int:
    """1 (upright) to 8, as in the EXIF standard; 1 if not told."""
    value = tags(exif)[0].get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def from_tiff(path: Path, byteorder: str, bigtiff: bool, offset: int) -> bytes | None:
    """The EXIF block of the TIFF directory at `offset`; None if it has none of the tags."""
    from PIL import Image as PillowImage

    if bigtiff and byteorder == ">":
        # Pillow takes it for a classic TIFF.
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
                _collect(block, image_tags, directories)
            if not image_tags and not directories:
                return None
            result = PillowImage.Exif()
            result.endian = byteorder
            for tag, value in image_tags.items():
                result[tag] = value
            for tag, directory in directories.items():
                result.get_ifd(tag).update(directory)
            return bare(result.tobytes())
        except Exception:
            return None


def orientation_block(value: int) -> bytes | None:
    """A block with nothing but the orientation `value`; None if that is upright."""
    if value == 1:
        return None
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, ORIENTATION, 3, 1, value, 0, 0)


def append_directories(file: BinaryIO, directories: dict[int, dict[int, Any]]) -> None:
    """Append the EXIF and GPS directories to a TIFF that has placeholder tags for them, and link them.

    A placeholder is a LONG tag numbered one less than the pointer, because tifffile writes no pointers.

    Args:
        file: the TIFF, open for reading and writing.
        directories: number of the pointer → tags of the directory.
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


def _collect(block: Any, image_tags: dict[int, Any], directories: dict[int, dict[int, Any]]) -> None:
    image_tags.update({tag: block[tag] for tag in IMAGE_TAGS if tag in block})
    for pointer in SUB_DIRECTORIES:
        # Nested directories (interoperability) are offsets into the old file: useless in the new one.
        content = {
            tag: value
            for tag, value in block.get_ifd(pointer).items()
            if tag != 40965 and _is_writable(pointer, tag, value)
        }
        if content:
            directories[pointer] = content


def _is_writable(group: int, tag: int, value: Any) -> bool:
    """Whether Pillow can write what it has read; of damaged blocks it reads things that it cannot write."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2(group=group)
    try:
        directory[tag] = value
        directory.tobytes()
    except Exception:
        return False
    return True
