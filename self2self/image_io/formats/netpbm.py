"""Netpbm: PBM, PGM, PPM and PAM through netpbmfile, and PFM, which it reads and this module writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from self2self.image_io.format import ArrayPages, Format, Pages, gathered, split_alpha
from self2self.image_io.image import Array, Header, Image, ImageRefused, Metadata, StoredImage

_BILEVEL, _FLOAT = ("P1", "P4"), ("Pf", "PF")
_TEXT = ("P2", "P3")


@dataclass(frozen=True)
class _Kind:
    """Magic number and greatest value of a file."""

    magic: str
    greatest: int


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file begins with a magic number of Netpbm and white space."""
    return head[:1] == b"P" and head[1:2] in b"1234567Ff" and head[2:3].isspace() and not head.startswith(b"P7 332")


def open_netpbm(path: Path) -> Pages:
    """Open grey or RGB with or without alpha; PFM is float32, the others are uint8 or uint16.

    Raises:
        ImageRefused: other channels.
        Exception: of any other class, if the file is damaged.
    """
    import netpbmfile

    with netpbmfile.NetpbmFile(path) as file:
        array = np.asarray(file.asarray())
        magic, greatest, has_channels = str(file.magicnumber), int(file.maxval), file.axes.endswith("S")
    if has_channels and array.shape[-1] > 4:
        raise ImageRefused(f"has {array.shape[-1]} channels; expected grey or RGB, with or without alpha.")
    values = array if has_channels else array[..., None]
    values = values.reshape(-1, *values.shape[-3:])
    notes = []
    if magic in _BILEVEL:
        # Ink is 1.
        values, magic, greatest = np.where(values, np.uint8(0), np.uint8(255)), "P5", 255
        notes.append("1-bit grey is written as 8-bit grey")
    elif magic in _FLOAT:
        # The file, and netpbmfile, have the lowest row first.
        values = np.asarray(values[:, ::-1], np.float32)
    elif greatest not in (255, 65535):
        notes.append(f"its white is {greatest}, and stays so in a Netpbm file")
    colours, alpha = split_alpha(values)
    header = Header("netpbm", _Kind(magic, greatest))
    return ArrayPages(colours, Metadata(header=header), alpha=alpha, image_notes=tuple(notes))


def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
    """Write the pages with the magic number and the greatest value of the source, as far as they fit."""
    import netpbmfile

    array, first = gathered(images, count)
    if array.dtype.kind == "f":
        path.write_bytes(_pfm(array[0]))
        return
    header = first.metadata.header
    known = header.content if header is not None and header.format == "netpbm" else None
    greatest = np.iinfo(array.dtype).max if known is None else known.greatest
    options: dict[str, Any] = {"maxval": int(greatest)}
    if known is not None and known.magic in _TEXT:
        options["magicnumber"] = known.magic
    elif first.alpha is not None:
        options |= {"magicnumber": "P7", "tupltype": "RGB_ALPHA" if array.shape[-1] == 4 else "GRAYSCALE_ALPHA"}
    array = np.minimum(array, np.asarray(greatest, array.dtype))
    array = array[..., 0] if array.shape[-1] == 1 else array
    netpbmfile.imwrite(path, array[0] if count == 1 else array, **options)


def _pfm(samples: Array) -> bytes:
    """A PFM of grey or RGB (H, W, C): little-endian, the lowest row first."""
    height, width, channels = samples.shape
    header = f"{'Pf' if channels == 1 else 'PF'}\n{width} {height}\n-1.0\n".encode()
    return header + np.ascontiguousarray(samples[::-1], "<f4").tobytes()


def _cannot_hold(image: Image) -> str | None:
    return "float32 values with transparency (alpha)" if image.dtype.kind == "f" and image.alpha is not None else None


FORMAT = Format(
    "netpbm",
    "Netpbm",
    recognises,
    (".ppm", ".pgm", ".pnm", ".pam", ".pfm", ".pbm"),
    open_netpbm,
    write,
    types=frozenset(("uint8", "uint16", "float32")),
    alpha_channels=frozenset((1, 3)),
    cannot_hold=_cannot_hold,
    needs="netpbmfile",
    extra="formats",
)
