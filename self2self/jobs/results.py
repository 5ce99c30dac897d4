"""Results of jobs: a fit, a denoised image or a denoised stack, and the JSON document of each."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import typed
from self2self.imaging.noise import Noise, Residual
from self2self.jobs.page_cache import PageRecord
from self2self.jobs.volumes.result import VolumeResult
from self2self.jobs.wording import seconds_text
from self2self.machine.system import peak_memory_bytes
from self2self.runtime.ensemble.tile_loop import EnsembleResult
from self2self.train.run_folder import Run, RunConfig

WHITE_VALUES = (255.0, 65535.0)
"""Values of white in files of 8 and 16 bits."""
FULL_RANGE_SHARE = 0.9
"""Smallest share of the range from 0 to white for which grey levels need no explanation."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """A finished fit.

    Attributes:
        run: the run folder.
        config: configuration of the fit.
        steps: total number of optimiser steps.
        loss: mean loss of the last steps; None if no step was made.
        psnr, ssim: comparison with the clean reference; None without a reference.
        seconds: time of this call.
        noise: noise of the image, estimated before the fit.
        quality: last mean score of the image quality term, 0 to 100; None without the term.
        quality_seconds: seconds that the term added to each step.
        reused: whether an earlier fit was used again.
    """

    run: Run
    config: RunConfig
    steps: int
    loss: float | None
    seconds: float
    psnr: float | None = None
    ssim: float | None = None
    noise: Noise | None = None
    quality: float | None = None
    quality_seconds: float | None = None
    reused: bool = False

    def settings(self) -> str:
        """The main settings of the fit in a few words."""
        recipe = self.config.recipe
        text = f"p {recipe.input_drop_rate:g}"
        if recipe.rate_of_passes != recipe.input_drop_rate:
            text += f" ({recipe.rate_of_passes:g} in the passes)"
        if self.config.noisy_share:
            text += f", {100 * self.config.noisy_share:.0f} % given back"
        return f"{text}, {self.steps} steps"

    def to_json(self) -> dict[str, Any]:
        """The document that `fit --json` prints."""
        values: dict[str, Any] = {
            "run": str(self.run.folder),
            "image": self.config.image,
            "recipe": self.config.recipe.name,
            "init": self.config.init,
            "steps": self.steps,
            "drop_rate": self.config.recipe.input_drop_rate,
            "pass_drop_rate": self.config.recipe.rate_of_passes,
            "noisy_share": self.config.noisy_share,
            "loss": self.loss,
            "seed": self.config.seed,
            "range": self.config.image_range and list(self.config.image_range),
            "device": self.config.device,
            "quality_term": self._quality_json(),
            "seconds": {"fit": round(self.seconds, 3)},
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if self.noise is not None:
            values["noise"] = self.noise.to_json()
        if self.psnr is not None:
            values |= {"psnr": self.psnr, "ssim": self.ssim}
        return values

    def quality_text(self) -> str:
        """Whether the image quality term was used, and its score, as text for people."""
        if self.config.iqa is None:
            return f"without the image quality term ({typed('--iqa')})"
        text = f"with the image quality term, weights {self.config.iqa.sha256[:8]}"
        if self.quality is not None and self.quality_seconds is not None:
            text += f": score {self.quality:.1f} of 100, {1000 * self.quality_seconds:.0f} ms of each step"
        return text

    def _quality_json(self) -> dict[str, Any] | None:
        if self.config.iqa is None:
            return None
        return {
            "metric": "paq2piq",
            "weight": self.config.recipe.quality_weight,
            "weights_sha256": self.config.iqa.sha256,
            "published_weights": self.config.iqa.published,
            "score": self.quality,
            "seconds_per_step": self.quality_seconds,
        }


@dataclass(frozen=True, slots=True)
class DenoiseResult:
    """A written image.

    Attributes:
        source, output: files of the noisy image and of the result.
        uncertainty: file of the standard deviation, or None.
        ensemble: the denoised image and how it was made.
        fit: the fit, if the job fitted or reused a fit.
        export_seconds: time of the export; 0 if the job made none.
        calibration_seconds: time for making and checking the single pass; 0 if the job made none.
        seconds: total time.
        residual: statistics of what was removed, the image minus the clamped, unrounded result.
        range: the two values of the file that map to 0 and 1, which are 255 grey levels apart.
        noise: noise of the image, estimated before the fit, if the job fitted or reused a fit.
        report: file of the HTML report, or None.
    """

    source: Path
    output: Path
    uncertainty: Path | None
    ensemble: EnsembleResult
    fit: FitResult | None
    export_seconds: float
    seconds: float
    residual: Residual
    range: tuple[float, float]
    noise: Noise | None = None
    report: Path | None = None
    calibration_seconds: float = 0.0

    def without_pixels(self) -> DenoiseResult:
        """A copy whose arrays are empty: what is to be said of an image that is written."""
        nothing = np.empty((0, 0, 0), np.float32)
        return replace(self, ensemble=replace(self.ensemble, image=nothing, uncertainty=None))

    @property
    def summary(self) -> str:
        """One line for anyone: the noise that was found, what was removed, and the time."""
        found = "" if self.noise is None else f"noise found: sigma {_rounded(self.noise.sigma)}; "
        removed = _rounded(self.residual.standard_deviation)
        return f"{found}removed: {removed}; {seconds_text(self.seconds)}{range_text(self.range)}"

    def to_json(self) -> dict[str, Any]:
        """The document that `infer --json` and `denoise --json` print for one image."""
        done = self.ensemble
        seconds = {
            "fit": self.fit.seconds if self.fit else 0.0,
            "export": self.export_seconds,
            "calibrate": self.calibration_seconds,
            **done.seconds,
            "total": self.seconds,
        }
        values: dict[str, Any] = {
            "image": str(self.source),
            "output": str(self.output),
            "engine": done.engine,
            "provider": done.provider,
            "mask_source": done.mask_source,
            "fallback": done.fallback or None,
            "plain": done.plain,
            "passes": done.passes,
            "tolerance": done.pass_plan.tolerance,
            "masks": None if done.plain else "balanced" if done.pass_plan.balanced else "independent",
            "flips": done.pass_plan.flips,
            "batch": done.batch,
            "tile": None if done.tile is None else list(done.tile),
            "tiles": done.tiles,
            "seed": done.seed,
            "seconds": {key: round(value, 3) for key, value in seconds.items()},
            "passes_per_second": round(done.passes_per_second, 3),
            "peak_memory_bytes": peak_memory_bytes(),
            "standard_error": None if math.isnan(done.standard_error) else done.standard_error,
            "range": list(self.range),
            "residual": self.residual.to_json(),
        }
        if self.noise is not None:
            values["noise"] = self.noise.to_json()
        if self.uncertainty is not None:
            values["uncertainty"] = str(self.uncertainty)
        if self.report is not None:
            values["report"] = str(self.report)
        if self.fit is not None:
            values_of_fit = self.fit.to_json()
            keys = ("run", "recipe", "init", "steps", "drop_rate", "pass_drop_rate", "noisy_share", "loss", "device")
            values |= {key: values_of_fit[key] for key in (*keys, "quality_term")}
        return values


@dataclass(frozen=True, slots=True)
class EarlierResult:
    """A result that an earlier run of the same job has written, as its files say.

    Attributes:
        source, output: files of the noisy image or stack and of the result.
        values: what the earlier run printed with `--json`, as far as the file keeps it.
    """

    source: Path
    output: Path
    values: dict[str, Any]

    def without_pixels(self) -> EarlierResult:
        """The same: there are no arrays."""
        return self

    def to_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints: that of the earlier run, with ``"done_already"``."""
        return {**self.values, "image": str(self.source), "output": str(self.output), "done_already": True}


@dataclass(frozen=True, slots=True)
class StackResult:
    """A written stack.

    Attributes:
        source, output: files of the noisy stack and of the result.
        uncertainty: file of the standard deviations, or None.
        pages: records of how each page was made, in order.
        kept: number of pages that an earlier run had finished.
        fit: the fit, or the first of several fits, if the job fitted or reused a fit.
        fit_seconds, export_seconds: time of all fits and exports of this job.
        seconds: total time.
    """

    source: Path
    output: Path
    uncertainty: Path | None
    pages: list[PageRecord]
    kept: int
    seconds: float
    fit: FitResult | None = None
    fit_seconds: float = 0.0
    export_seconds: float = 0.0

    def without_pixels(self) -> StackResult:
        """The same: there are no arrays."""
        return self

    @property
    def summary(self) -> str:
        """One line for anyone: the number of pages, and the time."""
        kept = f", {self.kept} of them by an earlier run" if self.kept else ""
        return f"{len(self.pages)} pages{kept}; {seconds_text(self.seconds)}"

    def to_json(self) -> dict[str, Any]:
        """The document that `infer --json` and `denoise --json` print for a stack."""
        values: dict[str, Any] = {
            "image": str(self.source),
            "output": str(self.output),
            "engine": self.last_denoised.engine,
            "provider": self.last_denoised.provider,
            "pages": [asdict(page) for page in self.pages],
            "pages_kept": self.kept,
            "passes": sum(page.passes for page in self.pages),
            "standard_error": self.standard_error,
            "seconds": {
                "fit": round(self.fit_seconds, 3),
                "export": round(self.export_seconds, 3),
                "total": round(self.seconds, 3),
            },
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if self.uncertainty is not None:
            values["uncertainty"] = str(self.uncertainty)
        if self.fit is not None:
            values_of_fit = self.fit.to_json()
            values |= {
                key: values_of_fit[key] for key in ("run", "recipe", "init", "steps", "loss", "device", "quality_term")
            }
        return values

    @property
    def last_denoised(self) -> PageRecord:
        """The last page for which an engine ran, if there is one."""
        return next((page for page in reversed(self.pages) if page.passes), self.pages[-1])

    @property
    def standard_error(self) -> float | None:
        """RMS of the standard errors of the pages with real passes; None if one of them has none, or there are none."""
        errors = [page.standard_error for page in self.pages if page.passes and not page.plain]
        known = [error for error in errors if error is not None]
        return math.sqrt(sum(error**2 for error in known) / len(known)) if known and len(known) == len(errors) else None


Result = DenoiseResult | StackResult | VolumeResult | EarlierResult
"""What a job returns for one image, stack or volume."""


def range_text(values: tuple[float, float] | None) -> str:
    """Say which values of the file 255 grey levels span; empty where they span about the file's whole type."""
    if values is None:
        return ""
    low, high = values
    if low == high or any(
        low >= 0 and high <= white and high - low >= FULL_RANGE_SHARE * white for white in WHITE_VALUES
    ):
        return ""
    return f"; 255 grey levels are from {low:g} to {high:g}"


def _rounded(grey_levels: float) -> str:
    """A noise level: as a whole number where it has two digits, else with one decimal."""
    return (
        "unknown" if math.isnan(grey_levels) else f"{grey_levels:.0f}" if grey_levels >= 9.95 else f"{grey_levels:.1f}"
    )
