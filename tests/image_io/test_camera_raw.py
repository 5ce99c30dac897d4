"""Camera raw files inside TIFFs are recognised by their tags; mosaics come back as DNG, or developed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from self2self.errors import EngineUnavailableError, InputError, OutputError
from self2self.image_io import check_output, default_output, open_stack, read_image, write_float_map, write_image
from self2self.image_io.format import Format
from self2self.image_io.formats import camera_raw
from tests.image_files import noise

SIDE, BLACK, WHITE = 128, 1000, 16383
CFA, LINEAR_RAW = 32803, 34892
IDENTITY = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)
DNG_TAGS = [
    (50706, 1, 4, bytes([1, 4, 0, 0]), True),
    (50708, 2, 0, b"Test Cam", True),
    (50721, 10, 9, IDENTITY, True),
    (50728, 5, 3, (1, 1, 1, 1, 1, 1), True),
    (50778, 3, 1, 21, True),
    (271, 2, 0, b"Maker", True),
    (272, 2, 0, b"Model", True),
]
CFA_TAGS = [
    (33421, 3, 2, (2, 2), True),
    (33422, 1, 4, bytes([0, 1, 1, 2]), True),
    (50711, 3, 1, 1, True),
    (50714, 3, 1, BLACK, True),
    (50717, 3, 1, WHITE, True),
]


def scene() -> np.ndarray:
    """Smooth linear RGB in [0, 1], (H, W, 3), with one pattern of another strength in each channel."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    pattern = 0.5 + 0.3 * np.sin(rows / 15) * np.cos(columns / 11)
    return pattern[..., None] * np.array([0.45, 0.5, 0.45])


def mosaic() -> np.ndarray:
    colours, values = scene(), np.empty((SIDE, SIDE))
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        values[row::2, column::2] = colours[row::2, column::2, channel]
    return np.rint(BLACK + values * (WHITE - BLACK)).astype(np.uint16)


def with_preview(path: Path, *, dng: bool = True) -> None:
    """The preview is the first page, and the mosaic is a page inside it, as in DNG, NEF and ARW."""
    tags = DNG_TAGS if dng else [tag for tag in DNG_TAGS if tag[0] in (271, 272)]
    with tifffile.TiffWriter(path) as writer:
        preview = noise((32, 32, 3))
        writer.write(preview, photometric="rgb", subifds=1, subfiletype=1, metadata=None, extratags=tags)
        writer.write(mosaic(), photometric=CFA, subfiletype=0, metadata=None, extratags=CFA_TAGS)


def mosaic_first(path: Path) -> None:
    tifffile.imwrite(path, mosaic(), photometric=CFA, metadata=None, extratags=CFA_TAGS + DNG_TAGS)


def linear(path: Path) -> None:
    samples = np.rint(scene() * 16000).astype(np.uint16)
    tifffile.imwrite(path, samples, photometric=LINEAR_RAW, metadata=None, extratags=DNG_TAGS)


def canon(path: Path) -> None:
    """The mark of CR2 lies between the header and the first directory."""
    directory = struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 32) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 16) + b"CR\2\0" + bytes(4) + directory)


RAW_FILES: dict[str, Callable[[Path], None]] = {
    "preview.dng": with_preview,
    "preview.nef": lambda path: with_preview(path, dng=False),
    "mosaic.dng": mosaic_first,
    "linear.dng": linear,
    "canon.cr2": canon,
    "renamed.tif": with_preview,
}


@pytest.mark.parametrize("name", RAW_FILES)
def test_without_its_reader_a_raw_file_is_refused_and_its_preview_is_not_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    RAW_FILES[name](path)
    monkeypatch.setattr(Format, "is_installed", property(lambda self: not self.needs))
    for read in (read_image, open_stack):
        with pytest.raises(EngineUnavailableError) as caught:
            read(path)
        assert caught.value.exit_code == 4
        assert str(caught.value) == (
            f"{path}: is a camera raw file; reading it needs the package rawpy. "
            "Install it: pip install 'self2self[raw]'"
        )


MATRIX = (9000, -3000, -1000, -4000, 12000, 2000, -1000, 2000, 6000)
NEUTRAL = ((50, 100), (1, 1), (70, 100))
BLACKS = (900, 1000, 1010, 1100)
COLOURED_TAGS = [
    *(tag for tag in DNG_TAGS if tag[0] not in (50721, 50728)),
    (50721, 10, 9, sum(((number, 10000) for number in MATRIX), ()), True),
    (50728, 5, 3, sum(NEUTRAL, ()), True),
    (50730, 10, 1, (1, 2), True),
    (50713, 3, 2, (2, 2), True),
    (50714, 3, 4, BLACKS, True),
    (274, 3, 1, 6, True),
    *(tag for tag in CFA_TAGS if tag[0] != 50714),
]
"""Colours, black levels, exposure and orientation of a real camera."""


def with_masked_border(path: Path) -> None:
    """Three lines above and five columns left see no light, and the pattern of what sees light begins elsewhere."""
    area = (50829, 3, 4, (3, 5, SIDE, SIDE), True)
    values = mosaic()
    values[:3], values[:, :5] = BLACK, BLACK
    tifffile.imwrite(path, values, photometric=CFA, metadata=None, extratags=[*COLOURED_TAGS, area])


def developed(path: Path) -> np.ndarray:
    """What rawpy makes of a file, with the colours of its tags; its white does not depend on the brightest pixel."""
    import rawpy

    with rawpy.imread(str(path)) as raw:
        return raw.postprocess(
            output_bps=16, use_camera_wb=True, no_auto_bright=True, adjust_maximum_thr=0.0, user_flip=0
        )


@pytest.mark.parametrize("name", ["preview.dng", "preview.nef", "mosaic.dng", "border.dng"])
def test_a_mosaic_is_denoised_as_measured_and_a_dng_of_it_has_the_same_colours(tmp_path: Path, name: str) -> None:
    rawpy = pytest.importorskip("rawpy")
    path = tmp_path / name
    (with_masked_border if name == "border.dng" else RAW_FILES[name])(path)
    image = read_image(path)
    assert "camera raw" in image.notes[0]
    assert image.pixels.shape[0] == 1
    assert image.mosaic
    out = default_output(image)
    assert out == path.with_name(f"{path.stem}.denoised.dng")
    write_image(out, image.pixels, image)
    with rawpy.imread(str(path)) as source, rawpy.imread(str(out)) as result:
        assert np.array_equal(result.raw_image_visible, source.raw_image_visible)
        assert np.array_equal(result.raw_colors_visible, source.raw_colors_visible)
        assert result.black_level_per_channel == source.black_level_per_channel
        assert result.white_level == source.white_level
        assert result.sizes.flip == source.sizes.flip
    if name != "preview.nef":
        # That file tells neither white balance nor colours.
        assert np.array_equal(developed(out), developed(path))
    assert read_image(out).sha256 == image.sha256


def test_a_tiff_of_a_mosaic_is_developed(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    path, out = tmp_path / "border.dng", tmp_path / "out.tif"
    with_masked_border(path)
    image = read_image(path)
    write_image(out, image.pixels, image)
    written = tifffile.imread(out)
    assert written.dtype == np.uint16
    # rawpy's curve is that of BT.709, where it is not told another.
    linear = np.where(developed(path) / 65535 < 0.081, 0, ((developed(path) / 65535 + 0.099) / 1.099) ** (1 / 0.45))
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(written / 65535 - expected)[linear > 0].max() < 2e-3
    with tifffile.TiffFile(out) as file:
        assert file.pages.first.tags[274].value == 6
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.RGB


@pytest.mark.parametrize("name", ["out.nef", "out.jpg", "out.fits"])
def test_files_that_cannot_hold_camera_raw_are_refused(tmp_path: Path, name: str) -> None:
    pytest.importorskip("rawpy")
    with_preview(tmp_path / "in.dng")
    image = read_image(tmp_path / "in.dng")
    with pytest.raises(OutputError) as caught:
        check_output(tmp_path / name, force=False, like=image)
    assert ".dng" in str(caught.value) or ".png" in str(caught.value)


def test_other_images_do_not_become_dng(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    tifffile.imwrite(tmp_path / "in.tif", mosaic())
    with pytest.raises(OutputError, match="camera raw cannot hold an image that is not camera raw"):
        check_output(tmp_path / "out.dng", force=False, like=read_image(tmp_path / "in.tif"))


def test_the_map_of_a_mosaic_has_a_value_for_each_pixel_of_the_sensor(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    with_preview(tmp_path / "in.dng")
    image = read_image(tmp_path / "in.dng")
    write_float_map(tmp_path / "map.tif", image.pixels, image)
    assert tifffile.imread(tmp_path / "map.tif").shape == (SIDE, SIDE)


def test_colours_of_each_pixel_are_developed_first_and_become_a_linear_dng(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "linear.dng"
    linear(path)
    image = read_image(path)
    assert image.pixels.shape == (3, SIDE, SIDE)
    assert "camera raw without a mosaic" in image.notes[0]
    assert not image.mosaic
    out = default_output(image)
    write_image(out, image.pixels, image)
    with tifffile.TiffFile(out) as file:
        assert file.pages.first.photometric == LINEAR_RAW
    # The matrix between two spaces of colour is rounded.
    assert np.abs(developed(out).astype(float) - developed(path)).max() <= 64
    colours = scene()
    for channel in range(3):
        clean, values = colours[4:-4, 4:-4, channel].ravel(), image.pixels[channel, 4:-4, 4:-4].ravel()
        assert np.corrcoef(clean, values)[0, 1] > 0.99


def test_a_raw_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    canon(tmp_path / "x.cr2")
    with pytest.raises(InputError, match="cannot be decoded as camera raw"):
        read_image(tmp_path / "x.cr2")


@pytest.mark.parametrize("data", [b"II*\0", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08\0\x05abc", b"BM", b""])
def test_damaged_and_other_files_are_not_raw(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    assert not camera_raw.recognises(data, tmp_path / "x")


def test_ordinary_tiffs_are_not_raw(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(noise((64, 64)), photometric="minisblack", subifds=1)
        writer.write(noise((32, 32)), photometric="minisblack", subfiletype=1)
    assert read_image(tmp_path / "pyramid.tif").format == "tiff"
    tifffile.imwrite(tmp_path / "stack.tif", noise((20, 16, 16)), photometric="minisblack")
    with open_stack(tmp_path / "stack.tif") as stack:
        assert stack.pages == 20
