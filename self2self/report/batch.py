"""What the page about many images shows: a row for each, with small pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from self2self.machine.files import atomic_write
from self2self.machine.marks import Mark, read_mark
from self2self.report import pictures
from self2self.report.html import TEMPLATES, render
from self2self.report.page import check_report

TEMPLATE = TEMPLATES / "batch.html.j2"
THUMBNAIL_SIDE = 240
"""Largest side of a small picture, in pixels."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One image of the page.

    Attributes:
        name: of the image.
        state: what happened to it, or why it failed.
        is_bad: whether it failed.
        noise, removed: standard deviations in 8-bit grey levels; None where they are not known.
        seconds: time; None where it is not known.
        before, after: float (C, H, W) of the noisy image and of the result; None for no picture.
    """

    name: str
    state: str
    is_bad: bool = False
    noise: float | None = None
    removed: float | None = None
    seconds: float | None = None
    before: NDArray[np.floating] | None = None
    after: NDArray[np.floating] | None = None


MARK = Mark("report of several images")


def check_batch_report(path: Path, *, force: bool) -> None:
    """Refuse a page that cannot be written, before the work. A page of this kind is replaced, any other file is not.

    Raises:
        OutputError, ResourceError: as for `check_report`.
    """
    check_report(path, force=force or read_mark(path, MARK.job) is not None)


def write_batch_report(path: Path, title: str, summary: str, rows: Iterable[BatchRow]) -> None:
    """Write the page, complete or not at all; an existing file is replaced.

    Args:
        path: the HTML file.
        title: of the page.
        summary: a line below the title.
        rows: the images, in order. Their pictures are embedded when their turn comes, so a generator keeps few of them.

    Raises:
        OutputError, ResourceError: the page cannot be written.
    """
    values = {"title": title, "summary": summary, "rows": [_values(row) for row in rows]}
    atomic_write(path, render(TEMPLATE, values).encode(), mark=MARK)


def _values(row: BatchRow) -> dict[str, object]:
    return {
        "name": row.name,
        "state": row.state,
        "is_bad": row.is_bad,
        "noise": _number(row.noise),
        "removed": _number(row.removed),
        "seconds": _number(row.seconds),
        "before": None if row.before is None else pictures.picture(row.before, THUMBNAIL_SIDE),
        "after": None if row.after is None else pictures.picture(row.after, THUMBNAIL_SIDE),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
