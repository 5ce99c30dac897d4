"""Writes image files for the tests without self2self, and reads them back independently of it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image as PillowImage
from PIL import ImageCms

from self2self.image_io import read_image, write_image

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_block(orientation: int = 6) -> bytes:
    """EXIF with an orientation, a camera, an exposure and a position; without the prefix of JPEG."""
    block = PillowImage.Exif()
    block[274] = orientation
    block[271] = "Camera maker"
    block.get_ifd(34665)[33434] = 0.25
    block.get_ifd(34665)[34855] = 1600
    block.get_ifd(34853)[1] = "N"
    return block.tobytes()[6:]


def noise(shape: tuple[int, ...], dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Uniform noise: integers over the whole range of their type, floats in [0, 1]."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return rng.random(shape).astype(dtype)


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    """Smooth uint8 waves, which lossy formats hardly change."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    planes = [128 + 80 * np.sin(rows / 17 + channel) * np.cos(columns / 23) for channel in range(shape[2])]
    return np.stack(planes, axis=2).astype(np.uint8)


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG from raw filtered rows, with `extra` chunks between IHDR and IDAT."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body


def png_chunks(data: bytes) -> dict[bytes, bytes]:
    chunks, position = {}, 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks[kind] = data[position + 8 : position + 8 + length]
        position += 12 + length
    return chunks


def save(path: Path, samples: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    """Write uint8 samples with Pillow, or 16-bit ones with imagecodecs."""
    if samples.dtype == np.uint16:
        path.write_bytes(imagecodecs.png_encode(samples))
        return path
    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    mode = mode or modes[1 if samples.ndim == 2 else samples.shape[2]]
    PillowImage.frombytes(mode, (samples.shape[1], samples.shape[0]), samples.tobytes()).save(path, **options)
    return path


def load(path: Path) -> np.ndarray:
    """Read samples without self2self: with tifffile for TIFF, imagecodecs for PNG, otherwise Pillow."""
    if path.suffix in (".tif", ".tiff"):
        return tifffile.imread(path)
    if path.suffix == ".png":
        return imagecodecs.png_decode(path.read_bytes())
    with PillowImage.open(path) as picture:
        return np.asarray(picture)


def encoded(file_format: str, **options: Any) -> bytes:
    """A small valid file of the format, for tests that damage it."""
    samples = smooth((24, 20, 3))
    buffer = io.BytesIO()
    if file_format == "tiff":
        tifffile.imwrite(buffer, samples, photometric="rgb", **options)
    else:
        PillowImage.fromarray(samples).save(buffer, file_format, **options)
    return buffer.getvalue()


def round_trip(path: Path, extension: str | None = None) -> Path:
    """Read an image, write its unchanged pixels to a file beside it, and return the path of that file."""
    image = read_image(path)
    assert image.pixels.dtype == np.float32
    assert image.pixels.ndim == 3
    assert image.pixels.shape[0] in (1, 3, 4)
    out = path.with_name(f"out{extension or path.suffix}")
    write_image(out, image.pixels, image)
    return out
