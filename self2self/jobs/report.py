"""`--report`: collect what a job did, and write the page about it."""

from __future__ import annotations

import math
from pathlib import Path

from self2self.image_io import Image
from self2self.jobs.noise_notes import better_source
from self2self.jobs.results import DenoiseResult
from self2self.machine.marks import Mark
from self2self.report import ReportContent, write_report
from self2self.train.run_folder import History

KEYS_SHOWN_ELSEWHERE = {"seconds", "noise", "residual"}
"""Entries of the JSON document that the page shows outside its table of settings."""


def write_job_report(path: Path, result: DenoiseResult, image: Image, history: Path | None, mark: Mark) -> None:
    """Write the page about `result`, and mark the file with `mark`.

    `history` is the history file of the fit to this image; None if there is none.

    Raises:
        OutputError, ResourceError: the page cannot be written.
    """
    values = result.to_json()
    losses = []
    for entry in History(history).read() if history else []:
        step, loss = entry.get("step"), entry.get("loss")
        if isinstance(step, int) and isinstance(loss, int | float) and math.isfinite(loss):
            losses.append((step, float(loss)))
    notes = []
    if image.dtype.name != "uint8" or image.range != (0, 255):
        notes.append(
            f"The file holds {image.dtype.name} values; shown are 8 bits, from {image.offset:g} (black) "
            f"to {image.offset + image.scale:g} (white)."
        )
    if image.alpha is not None:
        notes.append("Transparency is not shown.")
    assert result.ensemble.uncertainty is not None  # noqa: S101 - a report always needs it
    content = ReportContent(
        name=image.path.name,
        noisy=image.pixels,
        denoised=result.ensemble.image,
        uncertainty=result.ensemble.uncertainty,
        noise=result.noise,
        residual=result.residual,
        losses=losses,
        seconds=values["seconds"],
        settings=[_setting(key, value) for key, value in values.items() if key not in KEYS_SHOWN_ELSEWHERE],
        standard_error=result.ensemble.standard_error,
        notes=notes,
        better_source=better_source(image).strip(),
    )
    write_report(path, content, mark)


def _setting(key: str, value: object) -> tuple[str, str]:
    """Name and value of an entry of `DenoiseResult.to_json`, as text for people."""
    name = key.removesuffix("_bytes").replace("_", " ")
    if value is None or isinstance(value, bool):
        return name, {None: "none", True: "yes", False: "no"}[value]
    if key.endswith("_bytes") and isinstance(value, int):
        return name, f"{1e-6 * value:,.0f} MB"
    return name, f"{value:.4g}" if isinstance(value, float) else str(value)
