"""What AVIF, HEIC, JPEG XL, OpenEXR and Netpbm keep beside the values."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image as PillowImage

from self2self.image_io import read_image, write_image
from tests.image_files import ICC, exif_block, noise, save
from tests.image_io.format_cases import (
    read_avif,
    round_trip,
    rounded,
    squeezed,
)


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_keeps_its_bits(tmp_path: Path, bits: int) -> None:
    samples = noise((20, 30, 3), np.uint16) % np.uint16(2**bits)
    (tmp_path / "in.avif").write_bytes(imagecodecs.avif_encode(samples, level=100, bitspersample=bits))
    assert f"its {bits}-bit values" in read_image(tmp_path / "in.avif").notes[0]
    np.testing.assert_array_equal(read_avif(round_trip(tmp_path / "in.avif")), samples)


def test_exr_keeps_its_header_and_other_channels(tmp_path: Path) -> None:
    import OpenEXR

    colours, depth = noise((20, 30, 3), np.float16), noise((20, 30), np.float32, 1)
    channels = {f"beauty.{name}": np.ascontiguousarray(colours[..., k]) for k, name in enumerate("RGB")}
    header = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage, "owner": "the owner"}
    OpenEXR.File(header, {**channels, "Z": depth}).write(str(tmp_path / "in.exr"))
    image = read_image(tmp_path / "in.exr")
    assert image.notes == ("its other channels are copied as they are: Z",)
    out = OpenEXR.File(str(round_trip(tmp_path / "in.exr")), separate_channels=True)
    assert out.header()["owner"] == "the owner"
    assert out.header()["compression"] == OpenEXR.PIZ_COMPRESSION
    np.testing.assert_array_equal(out.channels()["Z"].pixels, depth)
    for name, values in channels.items():
        np.testing.assert_allclose(out.channels()[name].pixels, values, atol=1e-3)


@pytest.mark.parametrize("extension", [".avif", ".heic"])
def test_metadata_of_photographs_survives(tmp_path: Path, extension: str) -> None:
    if extension == ".heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    exif = exif_block(1)
    picture = PillowImage.fromarray(np.full((32, 48, 3), 90, np.uint8))
    picture.save(tmp_path / f"in{extension}", exif=b"Exif\0\0" + exif, icc_profile=ICC, xmp=b"<x/>")
    with PillowImage.open(round_trip(tmp_path / f"in{extension}")) as written:
        assert written.info["icc_profile"] == ICC
        assert written.info["xmp"] == b"<x/>"
        assert written.getexif()[271] == "Camera maker"
        np.testing.assert_allclose(np.asarray(written), 90, atol=3)


def test_exif_and_xmp_survive_in_jpeg_xl(tmp_path: Path) -> None:
    path = save(tmp_path / "in.png", noise((20, 30, 3)), exif=exif_block(1))
    image = read_image(path)
    write_image(tmp_path / "a.jxl", image.pixels, image)
    (tmp_path / "a.jxl").write_bytes((tmp_path / "a.jxl").read_bytes() + b"\0\0\0\x0cxml <x/>")
    again = read_image(round_trip(tmp_path / "a.jxl"))
    assert again.metadata.exif == image.metadata.exif
    assert again.metadata.xmp == b"<x/>"


@pytest.mark.parametrize("magic", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize("greatest", [255, 1000, 65535])
def test_netpbm_keeps_its_kind_and_white(tmp_path: Path, magic: str, greatest: int) -> None:
    import netpbmfile

    samples = noise((9, 10, 3 if magic in ("P3", "P6") else 1), np.uint16).astype(int) % (greatest + 1)
    samples = squeezed(samples).astype(np.uint8 if greatest == 255 else np.uint16)
    samples.flat[0] = greatest
    netpbmfile.imwrite(tmp_path / "in.pnm", samples, magicnumber=magic, maxval=greatest)
    image = read_image(tmp_path / "in.pnm")
    write_image(tmp_path / "out.pnm", image.pixels * np.float32(2), image)
    with netpbmfile.NetpbmFile(tmp_path / "out.pnm") as file:
        assert (file.magicnumber, file.maxval) == (magic, greatest)
        doubled = rounded(image.pixels * np.float32(2), image).reshape(samples.shape)
        np.testing.assert_array_equal(file.asarray(), np.clip(doubled, 0, greatest))


def test_bitmaps_become_grey(tmp_path: Path) -> None:
    bits = noise((16, 16)) > 127
    (tmp_path / "in.pbm").write_bytes(b"P4\n16 16\n" + np.packbits(~bits, axis=1).tobytes())
    image = read_image(tmp_path / "in.pbm")
    np.testing.assert_array_equal(rounded(image.pixels, image)[..., 0], bits * 255)
