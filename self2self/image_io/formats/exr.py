"""OpenEXR, the format of film and rendering, through the bindings of its own project."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from self2self.image_io.format import Format, OneImage, Pages, begins_with
from self2self.image_io.image import Header, ImageRefused, Metadata, StoredImage, check_size


@dataclass(frozen=True, eq=False)
class _Source:
    """A file of which one image is replaced.

    Attributes:
        header: attributes of its first part.
        channels: all channels of the first part by name, (H, W) each.
        colours, alpha: names of the channels that are the image.
    """

    header: dict[str, Any]
    channels: dict[str, Any]
    colours: tuple[str, ...]
    alpha: str | None


def open_exr(path: Path) -> Pages:
    """Open a file with one image: its first part, and of that the RGB or the grey channel, with alpha if it has any.

    Raises:
        ImageRefused: there are no such channels, or they have less than full resolution.
        Exception: of any other class, if the file is damaged.
    """
    return OneImage(lambda: _decode(path))


def _decode(path: Path) -> StoredImage:
    import OpenEXR

    small = OpenEXR.File(str(path), header_only=True).header()["dataWindow"]
    width, height = (int(last - first) + 1 for first, last in zip(*small, strict=True))
    check_size(width, height)
    file = OpenEXR.File(str(path), separate_channels=True)
    channels = {name: channel.pixels for name, channel in file.channels().items()}
    colours, alpha = _image_channels(tuple(channels))
    if any(channels[name].shape != (height, width) for name in colours):
        raise ImageRefused("has colours of less than full resolution; expected RGB. Convert it to RGB.")
    values = np.stack([channels[name] for name in colours], axis=2)
    notes = []
    if others := sorted(set(channels) - {*colours, alpha}):
        notes.append(f"its other channels are copied as they are: {', '.join(others)}")
    if len(file.parts) > 1:
        notes.append(f"only the first of its {len(file.parts)} parts is kept")
    header = {name: value for name, value in file.header().items() if name != "channels"}
    return StoredImage(
        values,
        None if alpha is None else channels[alpha].astype(values.dtype),
        Metadata(header=Header("exr", _Source(header, channels, colours, alpha))),
        notes=tuple(notes),
    )


def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
    """Write the image with the header and the other channels of the source."""
    import OpenEXR

    (image,) = images
    known = image.metadata.header
    if known is not None and known.format == "exr":
        source: _Source = known.content
    else:
        colours = ("Y",) if image.values.shape[2] == 1 else ("R", "G", "B")
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        source = _Source(header, {}, colours, None if image.alpha is None else "A")
    channels = dict(source.channels)
    for index, name in enumerate(source.colours):
        channels[name] = np.ascontiguousarray(image.values[..., index])
    if source.alpha is not None and image.alpha is not None:
        channels[source.alpha] = image.alpha
    OpenEXR.File(dict(source.header), channels).write(str(path))


def _image_channels(names: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """The names of the channels that are the image, and of alpha: RGB, grey, the RGB of a layer, or the only channel.

    Raises:
        ImageRefused: there are none of them.
    """
    layers = ["", *sorted({name.rpartition(".")[0] + "." for name in names if "." in name})]
    for layer in layers:
        for colours in (("R", "G", "B"), ("Y",)):
            wanted = tuple(layer + colour for colour in colours)
            if set(wanted) <= set(names):
                alpha = layer + "A"
                return wanted, alpha if alpha in names else None
    if len(names) == 1:
        return names, None
    raise ImageRefused(f"has the channels {', '.join(names)}; expected R, G and B, or Y.")


FORMAT = Format(
    "exr",
    "OpenEXR",
    begins_with(b"v/1\x01"),
    (".exr",),
    open_exr,
    write,
    types=frozenset(("float16", "float32", "uint32")),
    alpha_channels=frozenset((1, 3)),
    needs="OpenEXR",
    extra="formats",
    article="an",
)
