"""Computes the content of the report page, checks its path and writes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import OutputError, typed
from self2self.imaging.noise import BETTER_SOURCE, CORRELATION_THRESHOLD, GREY_LEVELS, Noise, Residual
from self2self.machine.files import atomic_write, check_new
from self2self.machine.marks import Mark
from self2self.report import pictures
from self2self.report.html import render

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True, slots=True)
class ReportContent:
    """The data that a report shows.

    Attributes:
        name: name of the image.
        noisy: float (C, H, W), C is 1, 3 or 4 (CMYK); nominally in [0, 1].
        denoised: the result, same shape and units.
        uncertainty: standard deviation over the passes, same shape and units.
        noise: noise as estimated before the fit; None if it was not estimated.
        residual: measurement of what was removed.
        losses: (step, loss) of the fit; empty without a fit.
        seconds: duration by stage; ``"total"`` is shown separately.
        settings: names and values as text.
        standard_error: RMS over the image, in 8-bit grey levels; NaN if unknown.
        notes: notes about the image, for the reader.
        better_source: sentence that proposes a better file where neighbouring pixels share noise; may be empty.
    """

    name: str
    noisy: NDArray[np.floating]
    denoised: NDArray[np.floating]
    uncertainty: NDArray[np.floating]
    noise: Noise | None
    residual: Residual
    losses: list[tuple[int, float]]
    seconds: dict[str, float]
    settings: list[tuple[str, str]]
    standard_error: float
    notes: list[str]
    better_source: str = BETTER_SOURCE


def check_report(path: Path, *, force: bool) -> None:
    """Refuse a path that cannot be written, before any slow work.

    Raises:
        OutputError: the extension is not .html, the folder is missing or read-only, `path` is a
            folder, or it exists and `force` is false.
        ResourceError: the disk is full.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputError(
            f"{typed('--report', path)}: expected the extension .html. Type: "
            f"{typed('--report', path.with_suffix('.html'))}"
        )
    check_new(path, force=force, option=typed("--report"), instead="choose another name")


def write_report(path: Path, content: ReportContent, mark: Mark | None = None) -> None:
    """Write the page of `content`, complete or not at all; an existing file is replaced.

    Raises:
        OutputError, ResourceError: the page cannot be written.
    """
    atomic_write(path, report_html(content).encode(), mark=mark)


def report_html(content: ReportContent) -> str:
    """The page of `content` as HTML."""
    return render(TEMPLATE, template_values(content))


def template_values(content: ReportContent) -> dict[str, Any]:
    """The variables of the template."""
    _, height, width = content.noisy.shape
    residual, noise = content.residual, content.noise
    deviation = residual.standard_deviation / GREY_LEVELS
    spread = np.sqrt(np.mean(np.square(content.uncertainty, dtype=np.float64), axis=0))
    # With the maximum as limit, a few very uncertain pixels would make all others dark.
    limit = float(np.percentile(spread, 99.5)) or 1 / GREY_LEVELS
    noisy = pictures.picture(content.noisy)
    # 1e-9 avoids a division by zero if nothing was removed from the image.
    removed = pictures.picture(_grey_for_cmyk(content.noisy - content.denoised) / max(6 * deviation, 1e-9) + 0.5)
    stages = [(name, seconds) for name, seconds in content.seconds.items() if name != "total"]
    longest = max([seconds for _, seconds in stages] + [1e-9])
    correlated = residual.correlated or (noise is not None and noise.correlated)
    return {
        "name": content.name,
        "width": width,
        "height": height,
        "noisy": noisy,
        "denoised": pictures.picture(content.denoised),
        "uncertainty": pictures.heat_map(spread / limit),
        "uncertainty_limit": f"{limit * GREY_LEVELS:.1f}",
        "uncertainty_gradient": pictures.gradient(),
        "uncertainty_mean": f"{float(spread.mean()) * GREY_LEVELS:.2f}",
        "removed": removed,
        "removed_span": f"{3 * residual.standard_deviation:.1f}",
        "reduced": None if (noisy.width, noisy.height) == (width, height) else (noisy.width, noisy.height),
        "sigma": f"{(noise or residual.noise).sigma:.1f}",
        "residual_mean": f"{round(residual.mean, 2) + 0.0:+.2f}",
        "residual_deviation": f"{residual.standard_deviation:.1f}",
        "correlation": f"{(noise or residual.noise).correlation:+.2f}",
        "threshold": CORRELATION_THRESHOLD,
        "correlated": correlated,
        "better_source": content.better_source,
        "standard_error": "unknown" if math.isnan(content.standard_error) else f"{content.standard_error:.2f}",
        "autocorrelation": [
            # Adding 0 makes a negative zero positive.
            [(f"{round(value, 2) + 0.0:+.2f}", pictures.cell_colour(value)) for value in row]
            for row in residual.autocorrelation
        ],
        "curve": pictures.loss_curve(content.losses) if len(content.losses) > 1 else None,
        "stages": [(name, _seconds_in_words(value), 100 * value / longest) for name, value in stages],
        "total": _seconds_in_words(content.seconds.get("total", sum(value for _, value in stages))),
        "settings": content.settings,
        "notes": content.notes,
    }


def _grey_for_cmyk(pixels: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(pixels.mean(axis=0, keepdims=True)) if len(pixels) == 4 else pixels


def _seconds_in_words(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"
