"""Camera raw files inside TIFFs are recognised by their tags, and developed from the sensor's values."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from self2self.errors import EngineUnavailableError, InputError
from self2self.image_io import default_output, open_stack, read_image, write_image
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


@pytest.mark.parametrize("name", ["preview.dng", "mosaic.dng", "linear.dng"])
def test_the_whole_sensor_is_developed_and_written_as_tiff(tmp_path: Path, name: str) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / name
    RAW_FILES[name](path)
    image = read_image(path)
    assert image.pixels.shape == (3, SIDE, SIDE)
    assert "camera raw" in image.notes[0]
    out = default_output(image)
    assert out == path.with_name(f"{path.stem}.denoised.tif")
    write_image(out, image.pixels, image)
    written = tifffile.imread(out)
    assert written.dtype == np.uint16
    colours = scene()
    for channel in range(3):
        clean, developed = colours[4:-4, 4:-4, channel].ravel(), written[4:-4, 4:-4, channel].ravel()
        # Developing scales the channels, and mixes them by the colour matrix.
        assert np.corrcoef(clean, developed)[0, 1] > 0.99


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
