"""Files with a flaw that decoders survive are read in full, with a note; files that lack pixels are refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from self2self.errors import InputError
from self2self.image_io import open_stack, read_image
from self2self.image_io.image import Image
from self2self.image_io.write import stored_values
from tests.image_files import noise, png_chunk, png_chunks, smooth

SAMPLES = noise((32, 40, 3))


def stored(image: Image) -> np.ndarray:
    return np.rint(np.moveaxis(image.pixels, 0, 2) * image.scale + image.offset)


def read(tmp_path: Path, name: str, data: bytes) -> Image:
    (tmp_path / name).write_bytes(data)
    return read_image(tmp_path / name)


def png_parts(raw: bytes | None = None, idat: bytes | None = None) -> tuple[bytes, bytes, bytes]:
    """Signature and header, IDAT, and end of a PNG of `SAMPLES`."""
    raw = b"".join(b"\0" + row.tobytes() for row in SAMPLES) if raw is None else raw
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 32, 8, 2, 0, 0, 0))
    stream = zlib.compress(raw) if idat is None else idat
    return b"\x89PNG\r\n\x1a\n" + header, png_chunk(b"IDAT", stream), png_chunk(b"IEND", b"")


def spoilt(chunk: bytes) -> bytes:
    """The chunk with another checksum."""
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


ROWS = b"".join(b"\0" + row.tobytes() for row in SAMPLES)
STREAM = zlib.compress(ROWS)
BEGIN, PIXELS, END = png_parts()
TEXT = png_chunk(b"tEXt", b"Comment\0hello")
FLAWED_PNG = {
    "text checksum": (BEGIN + spoilt(TEXT) + PIXELS + END, "the checksum of its 'tEXt' chunk is wrong"),
    "profile checksum": (BEGIN + spoilt(png_chunk(b"iCCP", b"x")) + PIXELS + END, "'iCCP'"),
    "adler": (b"".join(png_parts(idat=STREAM[:-1] + bytes([STREAM[-1] ^ 1]))), "checksum of its pixel data"),
    "no end": (BEGIN + PIXELS, "before its end marker"),
    "end checksum": (BEGIN + PIXELS + spoilt(END), "'IEND'"),
    "cut in the end": (BEGIN + PIXELS + END[:5], "before its end marker"),
    "cut in a text after the pixels": (BEGIN + PIXELS + TEXT[:-6], "before its end marker"),
    "cut in the checksum of the pixels": (BEGIN + PIXELS[:-2], "before its end marker"),
    "no adler": (b"".join(png_parts(idat=STREAM[:-4])), "before its end marker"),
    "extra chunk": (BEGIN + PIXELS + png_chunk(b"IDAT", bytes(4)) + END, "more pixel data"),
    "extra rows": (b"".join(png_parts(raw=ROWS + bytes(121))), "more pixel data"),
    "split": (
        BEGIN + b"".join(png_chunk(b"IDAT", STREAM[k : k + 7]) for k in range(0, len(STREAM), 7)) + spoilt(END),
        "'IEND'",
    ),
}


@pytest.mark.parametrize("case", FLAWED_PNG)
def test_a_flawed_png_is_read_in_full(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, note = FLAWED_PNG[case]
    image = read(tmp_path, "x.png", data)
    np.testing.assert_array_equal(stored(image), SAMPLES)
    assert len(image.notes) == 1
    assert note in image.notes[0]
    assert b"tEXt" not in dict(image.metadata.png_chunks)
    assert capfd.readouterr() == ("", "")


PACKED = zlib.compress(b"".join(b"\0" + row.tobytes() for row in smooth((32, 40, 3))))
INCOMPLETE_PNG = {
    "few rows": b"".join(png_parts(raw=ROWS[:-121])),
    "cut in the pixels": BEGIN + PIXELS[:-40],
    "pixel chunk checksum": BEGIN + spoilt(PIXELS) + END,
    "no pixels": BEGIN + END,
    "damaged stream": b"".join(png_parts(idat=PACKED[:40] + bytes(40) + PACKED[80:])),
    "no zlib stream": b"".join(png_parts(idat=b"\0" + STREAM)),
}


@pytest.mark.parametrize("case", INCOMPLETE_PNG)
def test_a_png_that_lacks_pixels_is_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(InputError, match="damaged, cut off"):
        read(tmp_path, "x.png", INCOMPLETE_PNG[case])


def test_a_sound_png_has_no_note(tmp_path: Path) -> None:
    image = read(tmp_path, "x.png", BEGIN + TEXT + PIXELS + END + b"anything behind the end")
    assert image.notes == ()
    assert png_chunks(BEGIN + TEXT)[b"tEXt"] == dict(image.metadata.png_chunks)[b"tEXt"]


def jpeg(size: tuple[int, int] = (70, 61), seed: int | None = None, **options: object) -> bytes:
    samples = smooth((*size, 3)) if seed is None else noise((*size, 3), seed=seed)
    buffer = io.BytesIO()
    PillowImage.fromarray(samples).save(buffer, "JPEG", **options)
    return buffer.getvalue()


JPEGS = [{}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_blocks": 3}, {"quality": 98}]


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read(tmp_path: Path, options: dict[str, object], lost: int) -> None:
    whole = jpeg(seed=1, **options)
    assert whole.endswith(b"\xff\xd9")
    image = read(tmp_path, "x.jpg", whole[:-lost])
    with PillowImage.open(io.BytesIO(whole)) as picture:
        np.testing.assert_array_equal(stored(image), np.asarray(picture))
    assert image.notes == ("its end marker is missing; all pixels are there",)


TRAILER = b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1527000000000SEFHk\0\0\0SEFT"
"""What phones write behind the image."""


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("lost", [0, 2])
def test_bytes_behind_a_jpeg_do_not_hide_that_its_end_marker_is_missing(
    tmp_path: Path, options: dict[str, object], lost: int
) -> None:
    whole = jpeg(seed=1, **options)
    image = read(tmp_path, "x.jpg", whole[: len(whole) - lost] + TRAILER)
    with PillowImage.open(io.BytesIO(whole)) as picture:
        np.testing.assert_array_equal(stored(image), np.asarray(picture))
    assert image.notes == ("its end marker is missing; all pixels are there",) * (lost > 0)


@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_a_jpeg_that_lacks_pixels_is_refused(tmp_path: Path, options: dict[str, object]) -> None:
    whole = jpeg(seed=2, **options)
    for lost in (4, 6, 9, 12, 40, 300, len(whole) // 2):
        with pytest.raises(InputError, match="cut off"):
            read(tmp_path, "x.jpg", whole[:-lost])


def test_a_progressive_jpeg_that_ends_between_two_scans_is_refused(tmp_path: Path) -> None:
    whole = jpeg(seed=3, progressive=True)
    starts = [k for k in range(len(whole) - 1) if whole[k : k + 2] in (b"\xff\xda", b"\xff\xc4")]
    for start in starts[4:]:
        with pytest.raises(InputError, match="cut off"):
            read(tmp_path, "x.jpg", whole[:start])


def with_tag(data: bytes, code: int, change: Callable[[bytearray, tifffile.TiffTag], None]) -> bytes:
    """A TIFF after `change`, which gets its bytes and the tag `code` of its first page."""
    changed = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        change(changed, file.pages.first.tags[code])
    return bytes(changed)


def remove(data: bytearray, tag: tifffile.TiffTag) -> None:
    # A private tag takes its place.
    data[tag.offset : tag.offset + 2] = struct.pack("<H", 65000)


def zero(*indices: int) -> Callable[[bytearray, tifffile.TiffTag], None]:
    def change(data: bytearray, tag: tifffile.TiffTag) -> None:
        width = {3: 2, 4: 4}[int(tag.dtype)]
        for index in indices:
            data[tag.valueoffset + width * index : tag.valueoffset + width * (index + 1)] = bytes(width)

    return change


def tiff(samples: np.ndarray = SAMPLES, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, samples, photometric="rgb" if samples.ndim == 3 else "minisblack", metadata=None, **options
    )
    return buffer.getvalue()


FLAWED_TIFF = {
    "one strip, no lengths": with_tag(tiff(), 279, remove),
    "one strip of 0 bytes": with_tag(tiff(), 279, zero(0)),
    "strips, no lengths": with_tag(tiff(rowsperstrip=5), 279, remove),
    "strips of 0 bytes": with_tag(tiff(rowsperstrip=5), 279, zero(0, 3, 6)),
    "deflated strip of 0 bytes": with_tag(tiff(rowsperstrip=8, compression="zlib"), 279, zero(2)),
    "last LZW strip of 0 bytes": with_tag(tiff(rowsperstrip=8, compression="lzw"), 279, zero(3)),
    "tiles of 0 bytes": with_tag(tiff(tile=(16, 16)), 325, zero(1, 5)),
    "planes of 0 bytes": with_tag(tiff(np.ascontiguousarray(np.moveaxis(SAMPLES, 2, 0)), planarconfig=2), 279, zero(1)),
}


@pytest.mark.parametrize("case", FLAWED_TIFF)
def test_lengths_of_strips_and_tiles_are_worked_out(tmp_path: Path, case: str) -> None:
    image = read(tmp_path, "x.tif", FLAWED_TIFF[case])
    np.testing.assert_array_equal(stored(image), SAMPLES)
    assert image.notes == ("the lengths of its strips or tiles are missing or wrong, and were worked out",)


@pytest.mark.parametrize(
    "data",
    [
        with_tag(tiff()[:-10], 279, zero(0)),
        with_tag(tiff(rowsperstrip=5)[:-10], 279, remove),
        with_tag(tiff(rowsperstrip=8, compression="zlib")[:-10], 279, zero(3)),
        with_tag(tiff(rowsperstrip=8), 273, zero(1)),
    ],
    ids=["zero", "none", "deflated", "no offset"],
)
def test_a_tiff_that_lacks_pixels_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match="cut off"):
        read(tmp_path, "x.tif", data)


@pytest.mark.parametrize("nodata", [None, -9999.0])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiles_that_are_not_stored_are_missing_values(
    tmp_path: Path, nodata: float | None, compression: str | None
) -> None:
    samples = 300 + noise((64, 64), np.float32)
    tags = [] if nodata is None else [(42113, 2, 0, f"{nodata:g}", True)]
    data = tiff(samples, tile=(32, 32), compression=compression, extratags=tags)
    data = with_tag(with_tag(data, 324, zero(1, 3)), 325, zero(1, 3))
    image = read(tmp_path, "x.tif", data)
    expected = samples.copy()
    expected[:, 32:] = nodata or 0
    np.testing.assert_allclose(stored_values(image.pixels, image)[..., 0], expected, atol=0.01)
    assert image.missing is not None
    np.testing.assert_array_equal(image.missing, expected != samples)
    assert image.notes == (f"2 of its 4 tiles are not stored (sparse); they are read as {nodata or 0:g}",)


def test_flaws_of_the_pages_of_a_stack_are_noted(tmp_path: Path) -> None:
    pages = noise((2, 32, 40), np.uint16)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for page in pages:
            writer.write(page, photometric="minisblack", metadata=None)
    (tmp_path / "x.tif").write_bytes(with_tag(buffer.getvalue(), 279, zero(0)))
    with open_stack(tmp_path / "x.tif") as stack:
        stack.check_pages()
        for index in range(2):
            image = stack.read_page(index)
            np.testing.assert_array_equal(stored(image)[..., 0], pages[index])
            assert bool(image.notes) == (index == 0)
