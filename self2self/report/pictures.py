"""Arrays as images and charts that a page can hold in itself."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.report.html import inline_svg

MAX_SIDE = 1600
"""Larger images are reduced; a page of a hundred megabytes opens nowhere."""

MAX_POINTS = 600
"""Points of a curve; a chart has hardly more columns."""

COLOUR_MAP = "inferno"


@dataclass(frozen=True, slots=True)
class Picture:
    """An embedded image: a ``data:`` address, and its size in pixels."""

    address: str
    width: int
    height: int


def picture(pixels: NDArray[np.floating]) -> Picture:
    """Float (C, H, W), C is 1, 3 or 4 (CMYK), as an 8-bit PNG; [0, 1] is black to white, the rest is cut off."""
    from PIL import Image

    bytes_ = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[bytes_.shape[2]]
    image = Image.fromarray(np.ascontiguousarray(bytes_[..., 0] if mode == "L" else bytes_), mode)
    return _embed(image.convert("RGB") if mode == "CMYK" else image)


def heat_map(values: NDArray[np.floating]) -> Picture:
    """Float (H, W) in [0, 1] in the colours of `gradient`."""
    from matplotlib import colormaps
    from PIL import Image

    return _embed(Image.fromarray(colormaps[COLOUR_MAP](np.clip(values, 0, 1), bytes=True)[..., :3].copy()))


def gradient() -> str:
    """The colours of `heat_map` from 0 to 1, as a CSS gradient."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    stops = ", ".join(to_hex(colormaps[COLOUR_MAP](share)) for share in np.linspace(0, 1, 9))
    return f"linear-gradient(to right, {stops})"


def cell_colour(value: float) -> str:
    """Background of a correlation: blue for negative, orange for positive, none for 0."""
    strength = min(1.0, abs(value)) ** 0.7
    return f"rgba({'255, 150, 60' if value > 0 else '80, 150, 255'}, {0.85 * strength:.2f})"


def loss_curve(losses: list[tuple[int, float]]) -> Any:
    """(step, loss) as an SVG element without size, in the page's own colours and type."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    thinned = thin(losses)
    with rc_context({"font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(5, 2.2), layout="constrained")
        axes = figure.add_subplot()
        # The page's own dark ground shows through.
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        axes.plot([step for step, _ in thinned], [loss for _, loss in thinned], color="#ff9f4a", linewidth=1.8)
        low, high = min(loss for _, loss in thinned), max(loss for _, loss in thinned)
        if 0 < low < high / 10:
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid(color="#3a3f47", linewidth=0.6)
        axes.tick_params(colors="#aab1bb", which="both")
        axes.xaxis.label.set_color("#aab1bb")
        axes.yaxis.label.set_color("#aab1bb")
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color("#5a616b")
        return inline_svg(figure, "loss against step")


def thin(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `MAX_POINTS` points, evenly spread, each the mean of its part; first and last stay."""
    if len(points) <= MAX_POINTS:
        return points
    parts = np.array_split(np.asarray(points[1:-1], np.float64), MAX_POINTS - 2)
    middle = [(round(float(part[:, 0].mean())), float(part[:, 1].mean())) for part in parts]
    return [points[0], *middle, points[-1]]


def _embed(image: object) -> Picture:
    from PIL import Image

    assert isinstance(image, Image.Image)  # noqa: S101 - for the type checker
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/png;base64,{encoded}", *image.size)
