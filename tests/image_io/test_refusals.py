"""Bad inputs and outputs give one-line errors of the right class, and no other exceptions."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from self2self.errors import InputError, OutputError
from self2self.image_io import check_output, read_image, write_float_map, write_image
from tests import image_files
from tests.image_files import ICC, encoded, noise, save, smooth
from tests.permissions import permissions_that_count

Maker = Callable[[Path], Path]


def _bytes(name: str, data: bytes) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _tiff(samples: np.ndarray, **options: object) -> Maker:
    def make(folder: Path) -> Path:
        tifffile.imwrite(folder / "x.tif", samples, **options)
        return folder / "x.tif"

    return make


def _animated(file_format: str) -> Maker:
    def make(folder: Path) -> Path:
        frames = [PillowImage.fromarray(noise((16, 16, 3), seed=seed)) for seed in range(3)]
        frames[0].save(folder / f"x.{file_format}", save_all=True, append_images=frames[1:])
        return folder / f"x.{file_format}"

    return make


def _float(value: float) -> Maker:
    samples = noise((16, 16), np.float32)
    samples[2:4, 3] = value
    return _tiff(samples, photometric="minisblack")


BIG = image_files.png(2**20, 2**20, 8, 2, b"\0")
BAD_FILES: dict[str, tuple[Maker, str]] = {
    "missing": (lambda folder: folder / "none.png", "no such file"),
    "folder": (lambda folder: folder, "is a folder"),
    "name too long": (lambda folder: folder / ("x" * 300 + ".png"), "cannot be read"),
    "empty": (_bytes("x.png", b""), "is empty"),
    "text": (_bytes("x.png", b"I am not a picture\n"), "unknown format"),
    "gif": (_animated("gif"), "is a GIF file"),
    "gzip that is damaged": (_bytes("x.nii.gz", b"\x1f\x8b" + bytes(30)), "unknown format"),
    "heic": (_bytes("x.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "cannot be decoded as HEIC"),
    "png signature only": (_bytes("x.png", b"\x89PNG\r\n\x1a\n"), "before its first chunk"),
    "png cut off": (_bytes("x.png", encoded("png")[:-40]), "cut off"),
    "png checksum": (_bytes("x.png", encoded("png").replace(b"IDATx", b"IDATy")), "checksum"),
    "png few rows": (_bytes("x.png", image_files.png(16, 16, 8, 0, bytes(17 * 5))), "expected 272"),
    "png header": (_bytes("x.png", image_files.png(16, 16, 3, 0, bytes(17 * 16))), "impossible header"),
    "png bomb": (_bytes("x.png", BIG), "megapixels"),
    "apng": (_animated("png"), "has 3 frames"),
    "webp animation": (_animated("webp"), "has 3 frames"),
    "tiff stack": (_tiff(noise((3, 16, 16)), photometric="minisblack"), "has 3 pages"),
    "imagej stack": (_tiff(noise((4, 16, 16)), imagej=True), "has 4 pages"),
    "jpeg cut off": (_bytes("x.jpg", encoded("jpeg")[:-60]), "cut off"),
    "webp cut off": (_bytes("x.webp", encoded("webp")[:-10]), "cut off"),
    "webp lossless cut off": (_bytes("x.webp", encoded("webp", lossless=True)[:-10]), "cut off"),
    "bmp cut off": (_bytes("x.bmp", encoded("bmp")[:-10]), "cut off"),
    "tiff cut off": (_bytes("x.tif", encoded("tiff")[:-10]), "cut off"),
    "compressed tiff cut off": (_bytes("x.tif", encoded("tiff", compression="zlib")[:-10]), "cut off"),
    "tiff header only": (_bytes("x.tif", b"II*\0\x08\0\0\0"), "cut off"),
    "too small": (_tiff(noise((5, 40)), photometric="minisblack"), "is 40x5 pixels; expected at least 8x8"),
    "2 channels": (_tiff(noise((16, 16, 2)), photometric="minisblack", planarconfig="contig"), "has 2 channels"),
    "5 channels": (_tiff(noise((16, 16, 5)), photometric="rgb"), "has 5 channels; expected grey or RGB"),
    "lab": (_tiff(noise((16, 16, 3)), photometric="cielab"), "colour space CIELAB"),
    "complex": (_tiff(np.ones((16, 16), np.complex64), photometric="minisblack"), "type complex64"),
    "int64": (_tiff(np.ones((16, 16), np.int64), photometric="minisblack"), "type int64"),
    "range of float64": (
        _tiff(np.array([-1.7e308, 1.7e308] * 32).reshape(8, 8), photometric="minisblack"),
        "expected a difference within the range of float64",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_one_line(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, text = BAD_FILES[case]
    path = make(tmp_path)
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert text in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    headers = {
        "tif": encoded("tiff"),
        "bmp": encoded("bmp")[:18] + struct.pack("<ii", 60000, 60000) + encoded("bmp")[26:],
    }
    (tmp_path / "x.bmp").write_bytes(headers["bmp"])
    with pytest.raises(InputError, match="3600 megapixels"):
        read_image(tmp_path / "x.bmp")
    path = tmp_path / "x.tif"
    path.write_bytes(headers["tif"])
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags[256].overwrite(60000)
        file.pages.first.tags[257].overwrite(60000)
    with pytest.raises(InputError, match="3600 megapixels"):
        read_image(path)


def test_a_jpeg_that_claims_more_than_its_bytes_can_hold(tmp_path: Path) -> None:
    data = bytearray(encoded("jpeg"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 13500, 13500)
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(InputError, match="cannot hold 13500x13500 pixels"):
        read_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp", "bmp", "tiff"])
def test_large_images_are_not_refused_as_decompression_bombs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    """Pillow's own limits (89 and 179 megapixels) do not apply, neither as a warning nor as an error."""
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "x"
    path.write_bytes(SOUND[file_format])
    image = read_image(path)
    write_image(tmp_path / f"out.{file_format}", image.pixels, image)


def test_unreadable(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", noise((8, 8)))
    path.chmod(0)
    with permissions_that_count(), pytest.raises(InputError, match="may not be read"):
        read_image(path)


def test_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(InputError, match="not a regular file"):
        read_image(tmp_path / "x.png")


SOUND = {
    "png": encoded("png", icc_profile=ICC, exif=image_files.exif_block()),
    "jpeg": encoded("jpeg", icc_profile=ICC, exif=image_files.exif_block()),
    "webp": encoded("webp", exif=image_files.exif_block()),
    "webp-lossless": encoded("webp", lossless=True),
    "bmp": encoded("bmp"),
    "tiff": encoded("tiff", iccprofile=ICC),
    "tiff-lzw": encoded("tiff", compression="lzw", tile=(16, 16)),
    "tiff-deflate": encoded("tiff", compression="zlib", predictor=True, rowsperstrip=5),
    "tiff-jpeg": encoded("tiff", compression="jpeg"),
    "bigtiff": encoded("tiff", bigtiff=True, byteorder=">", planarconfig="contig"),
}


@pytest.mark.parametrize("file_format", SOUND)
def test_damaged_bytes(tmp_path: Path, file_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Reading a file with changed bytes (mostly in the header) or cut off gives an image or an InputError, silently."""
    sound = SOUND[file_format]
    path, out = tmp_path / "x", tmp_path / "out.tif"
    places = st.one_of(st.integers(0, min(300, len(sound)) - 1), st.integers(0, len(sound) - 1))
    flips = st.lists(st.tuples(places, st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 255]))), max_size=4)

    @settings(max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(flips=flips, cut=st.one_of(st.just(len(sound)), st.integers(1, len(sound))))
    def damage(flips: list[tuple[int, int]], cut: int) -> None:
        data = bytearray(sound)
        for place, value in flips:
            data[place] = value
        path.write_bytes(data[:cut])
        try:
            image = read_image(path)
        except InputError as error:
            assert "\n" not in str(error)
            return
        # Every image that can be read can be written.
        write_image(out, image.pixels, image, force=True)

    damage()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("file_format", SOUND)
def test_every_truncation_is_an_error(tmp_path: Path, file_format: str) -> None:
    sound = SOUND[file_format]
    path = tmp_path / "x"
    # The last bytes of a JPEG, PNG or TIFF may be a marker or tags that decoding does not need.
    for cut in range(0, len(sound) * 9 // 10, max(1, len(sound) // 60)):
        path.write_bytes(sound[:cut])
        with pytest.raises(InputError):
            read_image(path)


UNSUITABLE: dict[str, tuple[Maker, str, str, str]] = {
    "16 bits": (lambda f: save(f / "x.png", noise((8, 8), np.uint16)), "o.jpg", "JPEG cannot hold uint16", ".png"),
    "float": (_tiff(noise((8, 8), np.float32), photometric="minisblack"), "o.png", "PNG cannot hold float32", ".tif"),
    "alpha": (lambda f: save(f / "x.png", noise((8, 8, 4))), "o.jpg", "JPEG cannot hold transparency", ".png"),
    "grey alpha": (lambda f: save(f / "x.png", noise((8, 8, 2))), "o.bmp", "BMP cannot hold grey with", ".png"),
    "cmyk": (lambda f: save(f / "x.jpg", smooth((8, 8, 4)), "CMYK"), "o.png", "PNG cannot hold CMYK", ".tif"),
    "profile": (lambda f: save(f / "x.png", noise((8, 8)), icc_profile=ICC), "o.bmp", "the ICC profile", ".png"),
    "orientation": (
        lambda f: save(f / "x.png", noise((8, 8)), exif=image_files.exif_block(6)),
        "o.bmp",
        "the orientation",
        ".png",
    ),
    "premultiplied": (_tiff(noise((8, 8, 4)), photometric="rgb", extrasamples=[1]), "o.png", "premultiplied", ".tif"),
}


@pytest.mark.parametrize("case", UNSUITABLE)
def test_a_format_that_cannot_hold_the_type(tmp_path: Path, case: str) -> None:
    make, name, text, better = UNSUITABLE[case]
    image = read_image(make(tmp_path))
    for refuse in (
        lambda: check_output(tmp_path / name, force=False, like=image),
        lambda: write_image(tmp_path / name, image.pixels, image),
    ):
        with pytest.raises(OutputError, match=text) as caught:
            refuse()
        assert str(caught.value).endswith(f"Use the extension {better}")
    assert not (tmp_path / name).exists()
    write_image((tmp_path / name).with_suffix(better), image.pixels, image)


def test_check_output(tmp_path: Path) -> None:
    check_output(tmp_path / "new.png", force=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.png").write_bytes(b"old")
    (tmp_path / "folder.png").mkdir()
    cases = {
        "old.png": "exists already. Replace it with --force",
        "folder.png": "is a folder",
        "none/new.png": "does not exist. Create it with mkdir -p",
        "new.xyz": "extension .xyz; expected .png",
        "new": "no extension",
        "old.png/new.png": "does not exist",
    }
    for name, text in cases.items():
        with pytest.raises(OutputError) as caught:
            check_output(tmp_path / name, force=False)
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)
    check_output(tmp_path / "old.png", force=True)
    assert (tmp_path / "old.png").read_bytes() == b"old"
    with pytest.raises(OutputError, match=r"map of numbers. Use the extension .tif or .png"):
        check_output(tmp_path / "map.jpg", force=False, float_map=True)


def test_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with permissions_that_count(), pytest.raises(OutputError, match=r"cannot be written \(Permission denied\)"):
        check_output(tmp_path / "locked" / "new.png", force=False)


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", noise((8, 8)))
    image = read_image(path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="--force"):
        write_image(path, image.pixels, image)
    with pytest.raises(OutputError, match="--force"):
        write_float_map(path, image.pixels, image)
    assert path.read_bytes() == before


def test_wrong_shape_and_nan_raise_value_errors(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "x.png", noise((8, 9))))
    with pytest.raises(ValueError, match="shape"):
        write_image(tmp_path / "o.png", image.pixels[0], image)
    with pytest.raises(ValueError, match="NaN"):
        write_image(tmp_path / "o.png", image.pixels * np.float32(np.nan), image)


def test_an_image_of_several_channels_is_no_mosaic(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", noise((16, 16, 3)))
    with pytest.raises(InputError, match=r"x\.png: has 3 channels; expected one, .* or leave out --mosaic\.$"):
        read_image(path, mosaic=True)
    assert not read_image(path, mosaic=False).mosaic
