"""`self2self denoise --like FILE`: one fit serves a series of images of the same camera and setting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from self2self.errors import InputError, UsageError, typed
from self2self.image_io import open_stack
from self2self.jobs.fit import read_fit_page
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.fitted_model import fit_model
from self2self.jobs.image_batch import ImageBatch
from self2self.jobs.infer import infer_job
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.prepared_image import prepare
from self2self.jobs.results import DenoiseResult, Result
from self2self.jobs.single_pass import with_cheapest_model
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.train.run_folder import Run

ALIKE = (0.6, 1.6)
"""What may be removed from an image of a series, relative to the noise of the image of the fit, without a note."""


def series_job(
    like: Path,
    images: list[Path],
    fitting: FitOptions,
    options: EnsembleOptions,
    outputs: OutputOptions,
    observer: Observer,
    *,
    batch: ImageBatch | None = None,
) -> list[Result]:
    """Fit to the image `like`, and denoise all `images` with that model.

    Args:
        like: the noisy image or stack of the fit; it need not be one of the images.
        images: image files; of several images, those whose result exists are skipped.
        fitting: options of the fit.
        options: options of the ensemble.
        outputs: where results go.
        observer: gets notes and progress.
        batch: as for `infer_job`.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    _check(fitting)
    options.check()
    series = fit_series(like, fitting, replace(options, uncertainty=outputs.needs_uncertainty), observer)
    results = infer_job(
        series.run.onnx_path, images, options, outputs, observer, batch=batch, nodata=fitting.nodata, of_series=True
    )
    series.note_unlike(results, observer)
    return results


@dataclass(slots=True)
class Series:
    """The fit of a series, and what was removed from its images.

    Attributes:
        like: the image of the fit.
        run: the finished fit, exported.
        sigma: noise of `like` in grey levels; None if it is unknown.
    """

    like: Path
    run: Run
    sigma: float | None
    _unlike: dict[Path, float] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        """Look at what was removed from one of the images."""
        if isinstance(result, DenoiseResult) and self.sigma is not None:
            removed = result.residual.standard_deviation
            if not ALIKE[0] * self.sigma <= removed <= ALIKE[1] * self.sigma:
                self._unlike[result.source] = removed

    def note_unlike(self, results: Iterable[Result], observer: Observer) -> None:
        """Note images from which much more or less was removed than the noise of `like`: among `results`, too."""
        for result in results:
            self.add(result)
        for path, removed in sorted(self._unlike.items())[:1]:
            count = len(self._unlike)
            observer.note(
                f"{path}: {removed:.1f} grey levels were removed, and the noise of {self.like} is {self.sigma:.1f}. "
                + (f"There are {count} images like this. " if count > 1 else "")
                + f"They may have other noise; denoise them without {typed('--like')}."
            )


def fit_series(like: Path, fitting: FitOptions, options: EnsembleOptions, observer: Observer) -> Series:
    """Fit to the image `like` for a series; arguments as for `series_job`.

    The single pass is made, too, unless `options` ask for real passes, as an uncertainty does.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    _check(fitting)
    with open_stack(like, nodata=fitting.nodata, mosaic=fitting.mosaic) as stack:
        _, image = read_fit_page(stack, fitting, observer)
    if image.is_empty:
        raise InputError(
            f"{typed('--like', like)}: holds nothing to denoise; expected an image of the series. Choose another."
        )
    # Each image would be mapped from the range of its own values, and equal noise would have many levels.
    prepared = prepare(image, fitting.recipe, whole_range=True if image.dtype == np.uint8 else None)
    fitted = fit_model(prepared, fitting, observer)
    fitted = with_cheapest_model(fitted, prepared.pixels, options, observer)
    noise = fitted.fit.config.noise
    return Series(like, fitted.fit.run, None if noise is None else noise.sigma)


def _check(fitting: FitOptions) -> None:
    """Refuse options of a fit that a series cannot have.

    Raises:
        UsageError: names the option.
    """
    fitting.check()
    if fitting.fit_pages != "first":
        raise UsageError(
            f"{typed('--fit-pages', fitting.fit_pages)}: {typed('--like')} makes one fit for all images. Leave one "
            "of them out."
        )
    if fitting.neighbours not in ("auto", 0):
        raise UsageError(
            f"{typed('--neighbours', fitting.neighbours)}: {typed('--like')} fits to a single page. Denoise stacks "
            f"without {typed('--like')}, or leave {typed('--neighbours')} out."
        )
