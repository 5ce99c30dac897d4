"""Mutated images: each is refused in one line or read as finite pixels; no traceback.

    FUZZ=2000 python -m pytest tests/image_io/test_fuzz_images.py    # the seed is FUZZ_SEED

Mutations are of bytes, of lengths, of entries of TIFF directories and of chunks of PNG, whose checksums are made
right again. A case that once failed is kept in `tests/corpus/`.
"""

from __future__ import annotations

import io
import os
import random
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from self2self.errors import InputError, ResourceError
from self2self.image_io import open_stack

SEED = int(os.environ.get("FUZZ_SEED", "0"))
CASES = int(os.environ.get("FUZZ", "500"))
SECONDS = 10.0
CORPUS = Path(__file__).parents[1] / "corpus" / "images"


def with_pillow(kind: str, pixels: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = io.BytesIO()
    more = {} if kind == "BMP" else {"exif": exif.tobytes(), "icc_profile": profile}
    Image.fromarray(pixels).save(buffer, kind, **more)
    return buffer.getvalue()


def with_tifffile(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def examples() -> dict[str, bytes]:
    """Small images of every format."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (12, 13, 3), np.uint8)
    grey = rng.integers(0, 60000, (3, 12, 13), np.uint16)
    return {
        **{f"a.{kind.lower()}": with_pillow(kind, colour) for kind in ("PNG", "JPEG", "WEBP", "BMP")},
        "grey.png": with_pillow("PNG", colour[..., 0]),
        "plain.tif": with_tifffile(colour, photometric="rgb"),
        "zlib.tif": with_tifffile(grey[0], compression="zlib", predictor=True),
        "tiles.tif": with_tifffile(colour, photometric="rgb", tile=(16, 16), compression="lzw"),
        "stack.tif": with_tifffile(grey, imagej=True),
        "float.tif": with_tifffile(rng.random((12, 13)).astype(np.float32), bigtiff=True),
    }


def flip_bytes(data: bytearray, source: random.Random) -> None:
    # Most of what decides lies at the beginning.
    end = source.choice([64, 512, len(data)])
    for _ in range(source.randint(1, 6)):
        data[source.randrange(min(end, len(data)))] = source.choice([0, 1, 255, source.randrange(256)])


def cut(data: bytearray, source: random.Random) -> None:
    first, last = sorted(source.randrange(len(data)) for _ in range(2))
    del data[first : source.choice([last, len(data)])]


def change_number(data: bytearray, source: random.Random) -> None:
    """Put an absurd number, as a length or an offset, somewhere."""
    form = source.choice(["<H", "<I", "<Q", ">I"])
    limit = 256 ** struct.calcsize(form)
    place = source.randrange(len(data) - 8)
    struct.pack_into(form, data, place, source.choice([0, 1, limit - 1, limit // 2, len(data)]))


def change_directory(data: bytearray, source: random.Random) -> None:
    """Change an entry of the first directory of a TIFF: its tag, type, count or value."""
    if data[:4] != b"II*\0":
        change_number(data, source)
        return
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    place = start + 2 + 12 * source.randrange(count)
    field, form = source.choice([(0, "<H"), (2, "<H"), (4, "<I"), (8, "<I")])
    struct.pack_into(form, data, place + field, source.choice([0, 1, 2, 7, 259, 2**16 - 1, source.randrange(2**16)]))


def change_chunk(data: bytearray, source: random.Random) -> None:
    """Change bytes of a chunk of a PNG, and make its checksum right."""
    if data[:4] != b"\x89PNG":
        flip_bytes(data, source)
        return
    chunks, place = [], 8
    while place < len(data):
        length = struct.unpack_from(">I", data, place)[0]
        chunks.append((place, length))
        place += 12 + length
    place, length = source.choice(chunks)
    for _ in range(source.randint(1, 4)):
        data[place + 4 + source.randrange(4 + length)] = source.randrange(256)
    struct.pack_into(">I", data, place + 8 + length, zlib.crc32(data[place + 4 : place + 8 + length]))


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    flip_bytes,
    cut,
    change_number,
    change_directory,
    change_chunk,
]


def try_to_read(path: Path) -> None:
    """Read all pages of a file that may be anything.

    Raises:
        AssertionError: the pixels are not finite, or it takes too long.
    """
    start = time.process_time()
    with warnings.catch_warnings():
        # Pillow warns of what it reads nevertheless.
        warnings.simplefilter("ignore")
        try:
            with open_stack(path) as stack:
                for index in range(min(stack.pages, 3)):
                    assert np.isfinite(stack.read_page(index).pixels).all()
        except (InputError, ResourceError) as error:
            assert "\n" not in str(error)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("name", examples())
def test_mutated_images(name: str, tmp_path: Path) -> None:
    whole = examples()[name]
    path = tmp_path / name
    path.write_bytes(whole)
    try_to_read(path)
    for case in range(CASES // 10):
        source = random.Random(f"{SEED} {name} {case}")
        data = bytearray(whole)
        source.choice(MUTATIONS)(data, source)
        path.write_bytes(data)
        try:
            try_to_read(path)
        except Exception as error:
            raise AssertionError(f"seed {SEED}, {name}, case {case}: keep it in {CORPUS}") from error


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*")), ids=lambda path: path.name)
def test_what_once_failed(path: Path) -> None:
    try_to_read(path)
