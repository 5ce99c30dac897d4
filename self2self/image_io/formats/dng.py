"""Writes what a camera's sensor measured as a DNG, and develops it; needs rawpy to develop alone.

The file has one page, the mosaic or linear colours, without compression, because DNG knows none that tifffile writes
for integers. A preview is left to the programs that open it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from self2self.image_io import exif, tiff
from self2self.image_io.image import Metadata, StoredImage, TiffLayout

DNG_VERSION, DNG_BACKWARD_VERSION, UNIQUE_CAMERA_MODEL = 50706, 50707, 50708
MAKE, MODEL = 271, 272
CFA_REPEAT, CFA_PATTERN, CFA_LAYOUT = 33421, 33422, 50711
BLACK_LEVEL_REPEAT, BLACK_LEVEL, WHITE_LEVEL = 50713, 50714, 50717
COLOR_MATRIX, AS_SHOT_NEUTRAL, ILLUMINANT = 50721, 50728, 50778

BYTE, ASCII, SHORT, LONG, RATIONAL, SRATIONAL = 1, 2, 3, 4, 5, 10
D65 = 21
DENOMINATOR = 10**6

SRGB_OF_XYZ = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)
"""The matrix from XYZ (D65) to linear sRGB (IEC 61966-2-1)."""

DEVELOPING: dict[str, Any] = {
    "output_bps": 16,
    "use_camera_wb": True,
    "no_auto_bright": True,
    # Otherwise white would depend on the brightest pixel, which denoising changes.
    "adjust_maximum_thr": 0.0,
    "user_flip": 0,
}
"""How rawpy develops: white balance of the camera, primaries of sRGB, no change of brightness, not turned."""
SRGB_CURVE = (2.4, 12.92)
"""Power and slope of the curve of sRGB, as rawpy takes them."""

Tag = tuple[int, int, int, Any, bool]
"""A tag as tifffile's `extratags`."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """What a DNG says of its samples.

    Attributes:
        pattern: colours of 2x2 pixels, row by row, 0 red, 1 green and 2 blue; None for linear colours of each pixel.
        black: stored value of black at these 2x2 pixels.
        white: stored value at which the sensor is saturated.
        colours: tags that tell what the colours are.
    """

    pattern: tuple[int, ...] | None
    black: tuple[int, ...]
    white: int
    colours: tuple[Tag, ...]


def colour_tags(matrix: Any, neutral: Sequence[float]) -> tuple[Tag, ...]:
    """The tags that tell what the colours of a sensor are.

    Args:
        matrix: (3, 3), from XYZ (D65) to the colours of the sensor.
        neutral: (3,), the sensor's colours of something grey, as the camera saw it.
    """
    return (
        (COLOR_MATRIX, SRATIONAL, 9, _rationals(matrix), True),
        (AS_SHOT_NEUTRAL, RATIONAL, 3, _rationals(neutral), True),
        (ILLUMINANT, SHORT, 1, D65, True),
    )


def _rationals(numbers: Any) -> tuple[int, ...]:
    """Numerators and denominators, one after the other."""
    return tuple(part for number in np.ravel(numbers) for part in (round(float(number) * DENOMINATOR), DENOMINATOR))


LINEAR_SRGB = Sensor(None, (0,) * 4, 2**16 - 1, colour_tags(SRGB_OF_XYZ, (1, 1, 1)))
"""Linear colours with the primaries of sRGB, after the white balance."""


def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
    """Write one image whose header is a `Sensor`, as a `Format.write`."""
    (image,) = images
    with path.open("r+b") as file:
        tiff.write(file, _as_tiff(image))


def develop(image: StoredImage) -> StoredImage:
    """Develop an image whose header is a `Sensor` to sRGB: (H, W, 3), uint16, with the curve of sRGB."""
    import rawpy

    file = io.BytesIO()
    tiff.write(file, _as_tiff(image))
    file.seek(0)
    with rawpy.imread(file) as raw:
        values = raw.postprocess(gamma=SRGB_CURVE, **DEVELOPING)
    return StoredImage(np.ascontiguousarray(values), None, Metadata(exif=image.metadata.exif))


def _as_tiff(image: StoredImage) -> StoredImage:
    """The same image with the layout and the tags of a DNG."""
    assert image.metadata.header is not None  # noqa: S101 - such images alone are written as DNG
    sensor: Sensor = image.metadata.header.content
    tags = (*_dng_tags(sensor, exif.read_tags(image.metadata.exif)[0]), *sensor.colours)
    layout = TiffLayout(
        byteorder="<",
        bigtiff=False,
        compression=1,
        photometric=tiff.LINEAR_RAW if sensor.pattern is None else tiff.CFA,
        separate=False,
        tile=None,
        alpha_kind=2,
        resolution=None,
        tags=tags,
    )
    return replace(image, metadata=Metadata(exif=image.metadata.exif, tiff=layout))


def _dng_tags(sensor: Sensor, exif_tags: dict[int, Any]) -> Iterable[Tag]:
    """The tags that every DNG has, and those of a mosaic."""
    name = " ".join(str(exif_tags[tag]).strip() for tag in (MAKE, MODEL) if tag in exif_tags) or "unknown"
    yield (DNG_VERSION, BYTE, 4, bytes((1, 4, 0, 0)), True)
    yield (DNG_BACKWARD_VERSION, BYTE, 4, bytes((1, 1, 0, 0)), True)
    yield (UNIQUE_CAMERA_MODEL, ASCII, 0, name.encode(), True)
    samples = 3 if sensor.pattern is None else 1
    yield (WHITE_LEVEL, LONG, samples, (sensor.white,) * samples if samples > 1 else sensor.white, True)
    if sensor.pattern is not None:
        yield (CFA_REPEAT, SHORT, 2, (2, 2), True)
        yield (CFA_PATTERN, BYTE, 4, bytes(sensor.pattern), True)
        yield (CFA_LAYOUT, SHORT, 1, 1, True)
        yield (BLACK_LEVEL_REPEAT, SHORT, 2, (2, 2), True)
        yield (BLACK_LEVEL, LONG, 4, sensor.black, True)
