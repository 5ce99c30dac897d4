"""Turns arrays into images and charts that are embedded in a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.picture import picture_of, png_of
from self2self.report.html import inline_svg

MAX_SIDE = 1600
"""Largest side of an embedded image in pixels. Larger images are reduced, because browsers cannot open a page of a
hundred megabytes."""

MAX_CURVE_POINTS = 600
"""Largest number of points of a curve; a chart has hardly more columns of pixels."""

COLOUR_MAP = "inferno"
"""Matplotlib's colour map of `heat_map` and `gradient`."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An embedded image: a ``data:`` address, and its size in pixels."""

    address: str
    width: int
    height: int


def picture(pixels: NDArray[np.floating], max_side: int = MAX_SIDE) -> Picture:
    """Embed float (C, H, W) pixels, C is 1, 3 or 4 (CMYK), as an 8-bit PNG; values are clipped to [0, 1].

    An image whose larger side is above `max_side` is reduced.
    """
    return _embed_png(picture_of(pixels), max_side)


def heat_map(values: NDArray[np.floating]) -> Picture:
    """Embed float (H, W) values in [0, 1] as a PNG in the colours of `gradient`."""
    from matplotlib import colormaps
    from PIL import Image

    return _embed_png(Image.fromarray(colormaps[COLOUR_MAP](np.clip(values, 0, 1), bytes=True)[..., :3].copy()))


def gradient() -> str:
    """The colours of `heat_map` from 0 to 1 as a CSS gradient."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    stops = ", ".join(to_hex(colormaps[COLOUR_MAP](share)) for share in np.linspace(0, 1, 9))
    return f"linear-gradient(to right, {stops})"


def cell_colour(value: float) -> str:
    """CSS background colour for a correlation: blue if negative, orange if positive, transparent at 0."""
    strength = min(1.0, abs(value)) ** 0.7
    return f"rgba({'255, 150, 60' if value > 0 else '80, 150, 255'}, {0.85 * strength:.2f})"


def loss_curve(losses: list[tuple[int, float]]) -> Any:
    """Draw (step, loss) pairs as an SVG element without a size of its own, in the page's colours and font.

    Args:
        losses: (step, loss) of the fit, at least two.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    thinned = thin_curve(losses)
    with rc_context({"font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(5, 2.2), layout="constrained")
        axes = figure.add_subplot()
        # The dark background of the page shows through.
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


def thin_curve(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Reduce a curve to at most `MAX_CURVE_POINTS` points: the first, the last, and means of equal parts between."""
    if len(points) <= MAX_CURVE_POINTS:
        return points
    parts = np.array_split(np.asarray(points[1:-1], np.float64), MAX_CURVE_POINTS - 2)
    middle = [(round(float(part[:, 0].mean())), float(part[:, 1].mean())) for part in parts]
    return [points[0], *middle, points[-1]]


def _embed_png(image: object, max_side: int = MAX_SIDE) -> Picture:
    from PIL import Image

    assert isinstance(image, Image.Image)  # noqa: S101 - for the type checker
    if max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.BOX)
    encoded = base64.b64encode(png_of(image)).decode("ascii")
    return Picture(f"data:image/png;base64,{encoded}", *image.size)
