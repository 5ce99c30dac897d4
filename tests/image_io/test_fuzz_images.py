"""Mutated images: each is refused in one line or read as finite pixels; no traceback, in 10 s and 1 GB.

    FUZZ=5000 python -m pytest tests/image_io/test_fuzz_images.py    # the seed is FUZZ_SEED

Mutations are of bytes, of lengths, of entries of TIFF directories and of chunks of PNG, whose checksums are made
right again. Other images are made from a grammar of the formats (`image_grammar`). A case that once failed is kept in
`tests/corpus/`.
"""

from __future__ import annotations

import io
import os
import random
import struct
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
from tests import limited
from tests.image_io.format_cases import CASES as CASES_OF_FORMATS
from tests.image_io.image_grammar import GRAMMARS
from tests.image_io.test_camera_raw import RAW_FILES
from tests.limited import try_all

pytestmark = limited.needs_fork

SEED = int(os.environ.get("FUZZ_SEED", "0"))
CASES = int(os.environ.get("FUZZ", "2000"))
CORPUS = limited.CORPUS / "images"
Record = Callable[[str, object], None]


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


def own_formats() -> dict[str, bytes]:
    """Small images of the formats that are always there."""
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


def example(name: str, folder: Path) -> bytes:
    """The image of `NAMES` called `name`; `folder` is for its file."""
    if name in OWN:
        return OWN[name]
    path = folder / name
    if name in RAW_FILES:
        pytest.importorskip("rawpy")
        RAW_FILES[name](path)
    else:
        case = CASES_OF_FORMATS[Path(name).stem.partition(".")[0]]
        pixels = np.random.default_rng(0).integers(0, 99, (*case.pages[-1:], 12, 13, case.channels[-1]))
        try:
            case.write(path, pixels.astype(case.types[0]))
        except ImportError as error:
            pytest.skip(str(error))
    return path.read_bytes()


OWN = own_formats()
NAMES = [*OWN, *(f"{name}{case.extension}" for name, case in CASES_OF_FORMATS.items()), "preview.dng", "mosaic.dng"]


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


def try_to_read(path: Path) -> bool:
    """Read all pages of a file that may be anything; false if it is refused in one line.

    Raises:
        AssertionError: the pixels are not finite.
    """
    with warnings.catch_warnings():
        # Pillow warns of what it reads nevertheless.
        warnings.simplefilter("ignore")
        try:
            with open_stack(path) as stack:
                for index in range(min(stack.pages, 3)):
                    assert np.isfinite(stack.read_page(index).pixels).all()
        except (InputError, ResourceError) as error:
            assert "\n" not in str(error)
            return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_mutated_images(name: str, tmp_path: Path, record_property: Record) -> None:
    whole = example(name, tmp_path)
    (tmp_path / name).write_bytes(whole)
    assert try_to_read(tmp_path / name)

    def mutated(case: str) -> bytes:
        source, data = random.Random(case), bytearray(whole)
        source.choice(MUTATIONS)(data, source)
        return bytes(data)

    names = [f"{name} {SEED} {case}" for case in range(-(-CASES // 2 // len(NAMES)))]
    try_all(names, mutated, try_to_read, tmp_path / name).report(record_property, "images")


@pytest.mark.parametrize("kind", GRAMMARS)
def test_images_of_a_grammar(kind: str, tmp_path: Path, record_property: Record) -> None:
    names = [f"{kind} {SEED} {case}" for case in range(-(-CASES // 2 // len(GRAMMARS)))]
    tried = try_all(names, lambda case: GRAMMARS[kind](random.Random(case)), try_to_read, tmp_path / f"made.{kind}")
    tried.report(record_property, "images")
    # A grammar of which nothing is read tests no more than the first bytes.
    assert CASES < 500 or min(tried.accepted, tried.refused) > len(names) // 20


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*")), ids=lambda path: path.name)
def test_what_once_failed(path: Path) -> None:
    try_to_read(path)
