"""Seconds, peak memory and PSNR of every method that runs here, by the size of the image.

Each method denoises each size in a process of its own, so that no memory of another one counts. The image is the middle
of a sample, mirrored at its borders where it is smaller, with white noise of 25 grey levels, which BM3D, FFDNet and
non-local means are told. Seconds are those of the method, wall clock and processor, with the libraries that it loads.
Memory is by how much its process grows, or all memory of a program of others that it starts.

The recipe ``paper`` takes hours, so its time is extrapolated from 20 steps, and it has no PSNR. Sizes that would take a
method longer than `LONGEST_SECONDS` are left out.
"""

from __future__ import annotations

import multiprocessing
import resource
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.pairs import Pair, sample
from benchmarks.results_file import Row
from benchmarks.rivals import external, make_rivals
from benchmarks.scores import scores
from benchmarks.studies.study import Job, Settings, Study, colour, new_axes
from self2self.machine.system import peak_memory_bytes
from self2self.train.synthetic_noise import add_noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMA = 25.0
SMALLEST = 64
LONGEST_SECONDS = 3600.0
EXTRAPOLATED = {"self2self-paper": "paper"}
"""Methods of which only the time is measured, and their recipes."""
SECONDS = {
    "bm3d": (1, 250),
    "nlm": (0, 20),
    "ffdnet": (0.2, 4),
    "ffdnet-clip": (0.2, 4),
    "dncnn": (0.2, 20),
    "zs-n2n": (2, 5600),
    "noise2fast": (5, 21000),
    "careamics": (400, 20),
    "aydin": (60, 300),
    "self2self": (25, 20),
    "self2self-paper": (1, 250),
}
"""Processor seconds of each method: those of any image, and those for each megapixel; for the estimate alone."""


def image_of(name: str, side: int) -> Pair:
    """The middle of a sample, mirrored at its borders where it is smaller, with noise; the same for each size."""
    whole = sample(name)
    missing = [max(0, side - length) for length in whole.shape[1:]]
    padded = np.pad(whole, ((0, 0), *((short // 2, short - short // 2) for short in missing)), "symmetric")
    top, left = ((length - side) // 2 for length in padded.shape[1:])
    clean = np.ascontiguousarray(padded[:, top : top + side, left : left + side])
    return Pair(f"{name} {side}", add_noise(clean, "gaussian", SIGMA, np.random.default_rng(0)), clean, SIGMA)


def measured(image: str, side: int, method: str, anchors: Path) -> Row:
    """Run one method in this process."""
    from benchmarks.methods import clock_recipe, named_recipe
    from benchmarks.protocol import Clock

    pair = image_of(image, side)
    base = peak_memory_bytes()
    if method in EXTRAPOLATED:
        row = clock_recipe(pair, named_recipe(EXTRAPOLATED[method]))
        row["seconds"], row["cpu_seconds"] = row.pop("fit_seconds"), row.pop("fit_cpu_seconds")
    else:
        rival = make_rivals(anchors)[method]
        clock = Clock()
        result = rival.denoise(pair, SIGMA)
        row = {**clock.row(), **scores(result, pair.clean)}
    if method in external.PROGRAMS:
        grown = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    else:
        grown = peak_memory_bytes() - base
    row["peak_megabytes"] = round(grown / 1e6)
    return {"name": method, "side": side, **row}


def _answer(connection: Connection, threads: int, *what: str | int | Path) -> None:
    import torch

    torch.set_num_threads(threads)
    connection.send(measured(*what))  # type: ignore[arg-type]


def run(image: str, side: int, method: str, anchors: Path) -> dict[str, Row]:
    """Run one method in a fresh process with as many threads as this one.

    Raises:
        RuntimeError: the process has failed; its message stands on the terminal.
    """
    import torch

    context = multiprocessing.get_context("spawn")
    mine, other = context.Pipe()
    process = context.Process(target=_answer, args=(other, torch.get_num_threads(), image, side, method, anchors))
    process.start()
    other.close()
    try:
        row: Row = mine.recv()
    except EOFError:
        raise RuntimeError(f"{method} has failed on {side}x{side} pixels") from None
    finally:
        process.join()
    return {method: row}


def estimate(method: str, side: int) -> float:
    """Processor seconds of a method, about."""
    once, by_megapixel = SECONDS.get(method, (60, 60))
    steps = 100 if method in EXTRAPOLATED else 1
    return once + by_megapixel * side**2 / 1e6 / steps


def sides(settings: Settings) -> list[int]:
    """Powers of two up to the largest side."""
    found = [SMALLEST]
    while 2 * found[-1] <= settings.side:
        found.append(2 * found[-1])
    return found


def jobs(settings: Settings) -> list[Job]:
    """Each method at each size, the shortest first, but for methods that cannot run here."""
    anchors = settings.anchors or Path()
    names = [name for name, rival in make_rivals(anchors).items() if not rival.missing()]
    found = [
        Job(f"{image} {side}", (name,), {}, seconds, partial(run, image, side, name, anchors))
        for image in settings.images
        for side in sides(settings)
        for name in names
        if (seconds := estimate(name, side)) <= LONGEST_SECONDS
    ]
    return sorted(found, key=lambda job: job.seconds)


def draw(rows: list[Row]) -> Figure:
    """Processor seconds, memory and PSNR by the size of the image; a line for each method."""
    figure, panels = new_axes(3, width=10.5)
    for axes, key, text in zip(
        panels,
        ("cpu_seconds", "peak_megabytes", "psnr"),
        ("processor seconds", "peak memory (MB)", "PSNR (dB)"),
        strict=True,
    ):
        for index, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
            points = sorted((row["side"], row[key]) for row in rows if row["name"] == name and key in row)
            if points:
                style = "o-" if index < 5 else "s--"
                axes.plot(*zip(*points, strict=True), style, color=colour(index), markersize=3, linewidth=1, label=name)
        axes.set(xscale="log", xlabel="side of the image (pixels)", ylabel=text)
        axes.xaxis.set_major_formatter("{x:g}")
    panels[0].set_yscale("log")
    panels[1].set_yscale("log")
    panels[0].legend(fontsize=6, frameon=False)
    return figure


STUDY = Study(
    "cost",
    "What does each method cost, and what does it bring, by the size of the image?",
    Settings(("astronaut",), side=512, steps=0, passes=0),
    Settings(("astronaut",), side=2048, steps=0, passes=0),
    jobs,
    draw,
)
