"""What a study is: its settings, the jobs that it consists of, and its plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import tuning
from benchmarks.pairs import FloatArray, Pair, cut, sample
from benchmarks.results_file import Row
from self2self.bench.charts import COLOURS
from self2self.train.synthetic_noise import add_noise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES = {"chelsea": (80, 100), "camera": (60, 190), "page": (30, 100), "retina": (285, 299), **tuning.IMAGES}
"""Samples of scikit-image, all of them tuning images, and the top left corner of the crop of each."""

PAPER_STEP_SECONDS = 2.4e-5
"""Processor seconds of a step of the paper's recipe for each pixel, on one core with AVX-512."""
FAST_STEP_SECONDS = 1.4e-5
"""The same for ``fast``."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much of a study runs.

    Attributes:
        images: keys of `IMAGES`.
        side: of the crops, in pixels; for `cost` the largest one.
        steps: of a fit with the paper's recipe.
        passes: the largest number of passes.
        anchors: folder with the weights of rivals; None for a run without them.
        pictures: folder in which results are kept as pictures.
    """

    images: tuple[str, ...]
    side: int
    steps: int
    passes: int
    anchors: Path | None = None
    pictures: Path = Path()

    def to_json(self) -> Row:
        """What all rows of a results file share. The images may become more from run to run."""
        return {"side": self.side, "steps": self.steps, "passes": self.passes}


@dataclass(frozen=True, slots=True)
class Job:
    """A part of a study that runs as a whole, such as one fit.

    Attributes:
        image: name of the image in the rows.
        methods: the methods of its rows.
        inputs: on what the rows depend beside the settings.
        seconds: estimated processor seconds.
        run: makes the fields of the row of each method.
    """

    image: str
    methods: tuple[str, ...]
    inputs: Row
    seconds: float
    run: Callable[[], dict[str, Row]]


def no_rows(rows: list[Row]) -> list[Row]:
    """No further rows."""
    return []


@dataclass(frozen=True, slots=True)
class Study:
    """One question, and how it is answered.

    Attributes:
        name: on the command line.
        question: in one line.
        brief, whole: settings by default, and with ``--whole``.
        jobs: all jobs for settings, those done already among them.
        draw: the plot of the rows.
        derived: rows that follow from the others.
        picture: writes a picture of the results of the jobs to a file; None where there is none.
    """

    name: str
    question: str
    brief: Settings
    whole: Settings
    jobs: Callable[[Settings], list[Job]]
    draw: Callable[[list[Row]], Figure]
    derived: Callable[[list[Row]], list[Row]] = no_rows
    picture: Callable[[Settings, Path], None] | None = None


def clean_crop(name: str, side: int) -> FloatArray:
    """The crop of a sample, float32 (C, `side`, `side`) in [0, 1]."""
    top, left = IMAGES[name]
    return cut(sample(name), {"top": top, "left": left, "size": side})


def with_gaussian(name: str, side: int, sigma: float) -> Pair:
    """The crop of a sample with white noise of `sigma` grey levels, seed 0, clipped and rounded to 8 bits."""
    clean = clean_crop(name, side)
    noisy = add_noise(clean, "gaussian", sigma, np.random.default_rng(0))
    return Pair(f"{name} gaussian {sigma:g}", noisy, clean, sigma)


def new_axes(columns: int = 1, height: float = 3.6, width: float = 8.4, **more: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `columns` plots side by side."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width if columns > 1 else 6.4, height), layout="constrained")
    found: list[Axes] = list(np.atleast_1d(figure.subplots(1, columns, **more)))
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e8edf2")
        axes.set_axisbelow(True)
    return figure, found


def colour(index: int) -> str:
    """A colour for a line."""
    return COLOURS[index % len(COLOURS)]


def mean_by(rows: list[Row], keys: tuple[str, ...], value: str) -> dict[tuple[Any, ...], float]:
    """The mean of `value` over all rows that have it, by their values of `keys`."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if value in row and all(key in row for key in keys):
            groups.setdefault(tuple(row[key] for key in keys), []).append(row[value])
    return {key: float(np.mean(values)) for key, values in groups.items()}
