"""`self2self denoise --like FILE`: one fit serves a series of images of the same camera and setting."""

from __future__ import annotations

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
    fitting.check()
    if fitting.fit_pages != "first":
        raise UsageError(
            f"{typed('--fit-pages', fitting.fit_pages)}: {typed('--like')} makes one fit for all images. Leave one "
            "of them out."
        )
    if fitting.neighbours not in ("auto", 0):
        raise UsageError(
            f"{typed('--neighbours', fitting.neighbours)}: {typed('--like')} fits to a single page. Denoise stacks "
            f"without {typed('--like')}, or leave "
            f"{typed('--neighbours')} out."
        )
    options.check()
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
    run = fitted.fit.run
    results = infer_job(
        run.onnx_path, images, options, outputs, observer, batch=batch, nodata=fitting.nodata, of_series=True
    )
    noise = fitted.fit.config.noise
    if noise is not None:
        _note_unlike(like, noise.sigma, results, observer)
    return results


def _note_unlike(like: Path, sigma: float, results: list[Result], observer: Observer) -> None:
    """Note images from which much more or less was removed than the noise of `like`, `sigma` grey levels."""
    removed = {
        result.source: result.residual.standard_deviation for result in results if isinstance(result, DenoiseResult)
    }
    unlike = [path for path, value in removed.items() if not ALIKE[0] * sigma <= value <= ALIKE[1] * sigma]
    if unlike:
        observer.note(
            f"{unlike[0]}: {removed[unlike[0]]:.1f} grey levels were removed, and the noise of {like} is {sigma:.1f}. "
            + (f"There are {len(unlike)} images like this. " if len(unlike) > 1 else "")
            + f"They may have other noise; denoise them without {typed('--like')}."
        )
