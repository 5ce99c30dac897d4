"""Round trips keep the type, depth and channels of the source; hashes, maps and default names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from self2self.image_io import default_output, image_hash, read_image, write_float_map, write_image
from tests import image_files
from tests.image_files import ICC, load, noise, round_trip, save, smooth


@pytest.mark.parametrize("extension", [".png", ".webp", ".bmp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_8_bit_lossless(tmp_path: Path, extension: str, channels: int) -> None:
    if channels == 2 and extension == ".bmp":
        pytest.skip("BMP has no grey with alpha")
    samples = noise((19, 27, channels))
    if (channels, extension) == (4, ".bmp"):
        path = tmp_path / "in.bmp"
        path.write_bytes(bmp_with_alpha(samples))
    else:
        options = {"lossless": True, "exact": True} if extension == ".webp" else {}
        path = save(tmp_path / f"in{extension}", samples, **options)
    expected = load(path)
    out = round_trip(path)
    np.testing.assert_array_equal(load(out), expected)
    assert load(out).dtype == np.uint8
    assert (read_image(out).alpha is not None) == (channels in (2, 4))
    np.testing.assert_array_equal(expected.reshape(19, 27, -1)[..., -1], samples[..., -1])


def bmp_with_alpha(samples: np.ndarray) -> bytes:
    height, width = samples.shape[:2]
    pixels = samples[::-1, :, [2, 1, 0, 3]].tobytes()
    header = np.array([108, width, height], "<i4").tobytes() + np.array([1, 32], "<u2").tobytes()
    header += np.array([3, len(pixels), 2835, 2835, 0, 0], "<u4").tobytes()
    header += np.array([0xFF0000, 0xFF00, 0xFF, 0xFF000000], "<u4").tobytes() + b"BGRs" + bytes(48)
    return b"BM" + np.array([122 + len(pixels), 0, 122], "<u4").tobytes() + header + pixels


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png(tmp_path: Path, channels: int) -> None:
    samples = noise((11, 30, channels), np.uint16)
    path = save(tmp_path / "in.png", samples if channels > 1 else samples[..., 0])
    written = load(round_trip(path)).reshape(samples.shape)
    assert written.dtype == np.uint16
    np.testing.assert_array_equal(written, samples)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_become_8(tmp_path: Path, bits: int) -> None:
    values = noise((16, 16)) >> (8 - bits)
    packed = np.packbits(np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(16, -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    path = tmp_path / "in.png"
    path.write_bytes(image_files.png(16, 16, bits, 0, rows))
    image = read_image(path)
    assert f"{bits}-bit" in image.notes[0]
    write_image(tmp_path / "out.png", image.pixels, image)
    np.testing.assert_array_equal(load(tmp_path / "out.png"), values * (255 // (2**bits - 1)))


@pytest.mark.parametrize("extension", [".tif", ".bmp", ".png"])
def test_1_bit(tmp_path: Path, extension: str) -> None:
    black_white = PillowImage.fromarray(noise((24, 24)) > 127)
    assert black_white.mode == "1"
    path = tmp_path / f"in{extension}"
    black_white.save(path)
    image = read_image(path)
    assert image.notes
    assert "1-bit" in image.notes[0]
    write_image(tmp_path / f"out{extension}", image.pixels, image)
    with PillowImage.open(tmp_path / f"out{extension}") as written:
        np.testing.assert_array_equal(np.asarray(written.convert("L")), np.asarray(black_white.convert("L")))


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("grey", [False, True])
def test_palette_becomes_rgb_or_grey(tmp_path: Path, extension: str, grey: bool) -> None:
    colours = noise((256, 3), seed=1)
    if grey:
        colours = np.repeat(colours[:, :1], 3, axis=1)
    picture = PillowImage.fromarray(noise((20, 30)))
    picture.putpalette(colours.tobytes())
    path = tmp_path / f"in{extension}"
    picture.save(path)
    image = read_image(path)
    assert image.pixels.shape[0] == (1 if grey else 3)
    assert "palette" in image.notes[0]
    out = round_trip(path)
    with PillowImage.open(out) as written:
        np.testing.assert_array_equal(np.asarray(written.convert("RGB")), np.asarray(picture.convert("RGB")))


def test_png_palette_with_transparency(tmp_path: Path) -> None:
    picture = PillowImage.fromarray(noise((20, 30)) % 4)
    picture.putpalette(noise((4, 3), seed=1).tobytes())
    path = tmp_path / "in.png"
    picture.save(path, transparency=bytes([0, 128, 255, 7]))
    with PillowImage.open(path) as reference:
        expected = np.asarray(reference.convert("RGBA"))
    np.testing.assert_array_equal(load(round_trip(path)), expected)


def test_png_index_beyond_the_palette(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    indices = noise((16, 16))
    palette = image_files.png_chunk(b"PLTE", noise((4, 3), seed=1).tobytes())
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    (tmp_path / "in.png").write_bytes(image_files.png(16, 16, 8, 3, rows, palette))
    image = read_image(tmp_path / "in.png")
    assert (image.pixels[:, indices > 3] == 0).all()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (17, 8)])
def test_interlaced_png(tmp_path: Path, channels: int, size: tuple[int, int]) -> None:
    samples = noise((*size, channels))
    steps = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    passes = [samples[row::down, column::across] for column, row, across, down in steps]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    data = bytearray(image_files.png(size[1], size[0], 8, {1: 0, 3: 2, 4: 6}[channels], rows))
    data[8:33] = image_files.png_chunk(b"IHDR", bytes(data[16:28]) + b"\1")
    (tmp_path / "in.png").write_bytes(data)
    np.testing.assert_array_equal(load(round_trip(tmp_path / "in.png")).reshape(samples.shape), samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colours", [1, 3])
def test_png_colour_key_becomes_alpha(tmp_path: Path, dtype: type, colours: int) -> None:
    samples = noise((16, 16, colours), dtype)
    samples[3, 4] = samples[9, 9] = samples[0, 0]
    raw = samples.astype(samples.dtype.newbyteorder(">")).reshape(16, -1)
    key = b"".join(int(value).to_bytes(2, "big") for value in samples[0, 0])
    depth = samples.dtype.itemsize * 8
    path = tmp_path / "in.png"
    chunk = image_files.png_chunk(b"tRNS", key)
    rows = b"".join(b"\0" + row.tobytes() for row in raw)
    path.write_bytes(image_files.png(16, 16, depth, {1: 0, 3: 2}[colours], rows, chunk))
    written = load(round_trip(path))
    np.testing.assert_array_equal(written[..., :colours], samples)
    expected = np.where((samples == samples[0, 0]).all(axis=2), 0, np.iinfo(dtype).max)
    np.testing.assert_array_equal(written[..., -1], expected)
    assert (expected == 0).sum() >= 3


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}], ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(tmp_path: Path, mode: str, options: dict[str, object]) -> None:
    samples = smooth((70, 61, len(mode) if mode != "L" else 1))
    path = save(tmp_path / "in.jpg", samples, mode, quality=90, **options)
    out = round_trip(path)
    with PillowImage.open(path) as old, PillowImage.open(out) as new:
        assert new.mode == mode
        difference = np.abs(np.asarray(new).astype(int) - np.asarray(old).astype(int))
        assert difference.max() <= 8
        assert difference.mean() < 1
        if mode == "RGB":
            assert new.layer[0][1:3] == new.layer[1][1:3] == (1, 1), "no chroma subsampling"


def test_lossy_webp(tmp_path: Path) -> None:
    samples = np.concatenate([smooth((40, 50, 3)), noise((40, 50, 1))], axis=2)
    path = save(tmp_path / "in.webp", samples, quality=80)
    image = read_image(path)
    assert not image.lossless
    out = round_trip(path)
    assert b"VP8L" not in out.read_bytes()[:40]
    difference = np.abs(load(out).astype(int) - load(path))
    np.testing.assert_array_equal(load(out)[..., 3], samples[..., 3])
    assert difference[..., :3][samples[..., 3] > 0].mean() < 4


def test_phone_jpeg_with_second_picture(tmp_path: Path) -> None:
    path = tmp_path / "in.jpg"
    first = PillowImage.fromarray(smooth((32, 32, 3)))
    first.save(path, "MPO", save_all=True, append_images=[first])
    image = read_image(path)
    assert image.format == "jpeg"
    assert "main picture" in image.notes[0]


def test_hash_depends_on_pixels_only(tmp_path: Path) -> None:
    samples = noise((20, 30, 3))
    png = read_image(save(tmp_path / "a.png", samples, icc_profile=ICC))
    bmp = read_image(save(tmp_path / "b.bmp", samples))
    tifffile.imwrite(tmp_path / "c.tif", samples.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    assert image_hash(png) == image_hash(bmp) == image_hash(read_image(tmp_path / "c.tif"))
    assert len(image_hash(png)) == 64
    samples[0, 0, 0] ^= 1
    assert image_hash(read_image(save(tmp_path / "d.png", samples))) != image_hash(png)


def test_hash_of_big_endian_is_that_of_little_endian(tmp_path: Path) -> None:
    samples = noise((20, 30), np.float32)
    for byteorder in "<>":
        name = tmp_path / f"{ord(byteorder)}.tif"
        tifffile.imwrite(name, samples, photometric="minisblack", byteorder=byteorder)
    first, second = (image_hash(read_image(tmp_path / f"{ord(byteorder)}.tif")) for byteorder in "<>")
    assert first == second


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_float_map(tmp_path: Path, channels: int) -> None:
    samples = (noise((20, 30, channels), np.uint16) // 16).astype(np.uint16)
    photometric = {1: "minisblack", 3: "rgb", 4: "separated"}[channels]
    tifffile.imwrite(
        tmp_path / "in.tif",
        samples[..., 0] if channels == 1 else samples,
        photometric=photometric,
        extratags=[(274, 3, 1, 6, True)],
        resolution=(300, 300),
    )
    image = read_image(tmp_path / "in.tif")
    deviation = np.random.default_rng(0).random(image.pixels.shape, np.float32) * 1.5
    write_float_map(tmp_path / "map.tif", deviation, image)
    written = tifffile.imread(tmp_path / "map.tif").reshape(20, 30, channels)
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, np.moveaxis(deviation, 0, 2) * image.scale, rtol=1e-6)
    with tifffile.TiffFile(tmp_path / "map.tif") as file:
        assert file.pages.first.tags[274].value == 6
        assert "standard deviation" in file.pages.first.description
    if channels < 4:
        write_float_map(tmp_path / "map.png", deviation, image)
        png = imagecodecs.png_decode((tmp_path / "map.png").read_bytes()).reshape(20, 30, channels)
        expected = np.clip(np.moveaxis(deviation, 0, 2).astype(float) * 65535, 0, 65535)
        np.testing.assert_allclose(png, expected, atol=0.51)
        with PillowImage.open(tmp_path / "map.png") as picture:
            assert picture.getexif()[274] == 6
            assert "65535 stands for" in picture.text["Description"]


def test_default_output(tmp_path: Path) -> None:
    assert default_output("x/photo.final.JPG") == Path("x/photo.final.denoised.JPG")
    path = save(tmp_path / "in.png", noise((8, 8, 3)))
    misnamed = path.rename(tmp_path / "in.jpg")
    assert default_output(read_image(misnamed)) == tmp_path / "in.denoised.png"


def test_import_loads_no_codec() -> None:
    code = "import sys, self2self.image_io; print([m for m in ('PIL', 'tifffile', 'imagecodecs') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == "[]"
