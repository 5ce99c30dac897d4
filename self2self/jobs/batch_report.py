"""`--report` for several images: collect what is known of each, and write one page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import Self2SelfError
from self2self.image_io import open_stack
from self2self.jobs.image_batch import ImageBatch
from self2self.machine.marks import read_mark
from self2self.report import BatchRow, write_batch_report

MOST_PICTURES = 300
"""Largest number of images whose pictures the page shows; a page of thousands would not open in a browser."""


def write_report_of_batch(path: Path, batch: ImageBatch) -> None:
    """Write the page about all images of `batch`, those of earlier commands included.

    Raises:
        OutputError, ResourceError: the page cannot be written.
    """
    total = len(batch.images)
    summary = batch.summary() or f"{total} images written"
    if total > MOST_PICTURES:
        summary += f"; more than {MOST_PICTURES} images are listed without pictures"
    write_batch_report(path, f"{total} images, denoised by self2self", summary, _rows(batch))


def _rows(batch: ImageBatch) -> Iterator[BatchRow]:
    failed, skipped = dict(batch.failed), set(batch.skipped)
    with_pictures = len(batch.images) <= MOST_PICTURES
    for image in batch.images:
        if (error := failed.get(image)) is not None:
            yield BatchRow(str(image), str(error), is_bad=True)
            continue
        output = batch.outputs.output_for(image)
        mark = read_mark(output, None)
        values = (mark.result if mark else None) or {}
        yield BatchRow(
            name=str(image),
            state="written earlier" if image in skipped else "written",
            noise=_number(values, "noise", "sigma"),
            removed=_number(values, "residual", "standard_deviation"),
            seconds=_number(values, "seconds", "total"),
            before=_pixels(image) if with_pictures else None,
            after=_pixels(output) if with_pictures else None,
        )


def _number(values: dict[str, Any], *keys: str) -> float | None:
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


def _pixels(path: Path) -> NDArray[np.float32] | None:
    """The first page of a file; None if it cannot be read any more."""
    try:
        with open_stack(path) as stack:
            return stack.read_page(0).pixels
    except Self2SelfError:
        return None
