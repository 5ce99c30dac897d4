"""Denoise one page of a file or of an array: choose its model, run the passes, and look at what was removed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

from numpy.typing import NDArray

from self2self.image_io import Stack
from self2self.imaging.noise import Residual
from self2self.jobs.fit import page_to_fit
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.fitted_model import FittedModel, fit_model
from self2self.jobs.noise_notes import note_file
from self2self.jobs.observer import Observer
from self2self.jobs.page_cache import PageRecord
from self2self.jobs.page_neighbours import NeighbourPages, PageForModel
from self2self.jobs.passes import run_passes
from self2self.jobs.prepared_image import Center, PreparedImage, prepare_for_model
from self2self.jobs.single_pass import SinglePass, with_cheapest_model
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.kept_passes import KeptPasses
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.tile_loop import EnsembleResult
from self2self.runtime.model import Model


class PageModels(Protocol):
    """The models of the pages."""

    @property
    def whole_range(self) -> bool:
        """`Contract.whole_range` of the models."""

    @property
    def neighbours(self) -> int:
        """`Contract.neighbours` of the models."""

    def model_for(self, index: int, page: PreparedImage) -> Model:
        """The model for page `index`, from 0, which is `page` and holds something to denoise."""

    def page_finished(self, index: int) -> None:
        """Called when page `index`, from 0, is denoised and kept."""


@dataclass(frozen=True, slots=True)
class OneModel:
    """One model for all pages, or its single pass for those pages on which that is as good.

    Attributes:
        model: the model.
        single_pass: its single pass; None without.
        seed: of the crops on which the single pass is checked.
        crops: number of these crops of each page; None for that of a single image.
    """

    model: Model
    single_pass: SinglePass | None = None
    seed: int = 0
    crops: int | None = 1

    @property
    def whole_range(self) -> bool:
        """`Contract.whole_range` of the model."""
        return self.model.contract.whole_range

    @property
    def neighbours(self) -> int:
        """`Contract.neighbours` of the model."""
        return self.model.contract.neighbours

    def model_for(self, index: int, page: PreparedImage) -> Model:
        """The model for page `index`, from 0, which is `page`."""
        if self.single_pass is None:
            return self.model
        return self.single_pass.model_for(page.pixels, f"page {index + 1}", seed=self.seed, crops=self.crops)

    def page_finished(self, index: int) -> None:
        """Do nothing: the model serves the next page, too."""


class NoModel:
    """For pages of which none holds anything to denoise (`Image.is_empty`); they come back as they are."""

    whole_range = False
    neighbours = 0

    def model_for(self, index: int, page: PreparedImage) -> Model:
        """Raise: such a page asks for no model."""
        raise AssertionError(f"page {index + 1} holds something to denoise")

    def page_finished(self, index: int) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class DenoisedPage:
    """A denoised page.

    Attributes:
        prepared: the noisy page; its pixels may have become those of the result.
        ensemble: the result in the range of `prepared`, and how it was made.
        seed: of its masks.
        residual: statistics of what was removed.
        center: the middle of the noisy page.
        seconds: time from after reading on, without the fit.
    """

    prepared: PreparedImage
    ensemble: EnsembleResult
    seed: int
    residual: Residual
    center: Center
    seconds: float

    def values(self) -> NDArray[Any]:
        """The result as a file stores it, (H, W, C), in the stored type."""
        return self.prepared.to_file_values(self.ensemble.image)

    def deviations(self) -> NDArray[Any] | None:
        """Standard deviations over the passes in stored units, float32 (H, W, C); None if they are not kept."""
        deviations = self.ensemble.uncertainty
        return None if deviations is None else self.prepared.deviations_to_file_values(deviations)

    def record(self, index: int) -> PageRecord:
        """How the page, the one with number `index` from 0, was made."""
        result, residual = self.ensemble, self.residual
        return PageRecord(
            page=index + 1,
            image_sha256=self.prepared.sha256,
            seed=self.seed,
            engine=result.engine,
            provider=result.provider,
            tile=None if result.tile is None else list(result.tile),
            fallback=result.fallback,
            passes=result.passes,
            standard_error=None if math.isnan(result.standard_error) else result.standard_error,
            range=list(self.prepared.image.range),
            sigma=round(residual.noise.sigma, 3),
            residual_mean=round(residual.mean, 3),
            residual_deviation=round(residual.standard_deviation, 3),
            correlated=residual.correlated,
            seconds=round(self.seconds, 3),
            plain=result.plain,
        )


def fit_for_pages(
    stack: Stack, fitting: FitOptions, options: EnsembleOptions, observer: Observer, *, force: bool = False
) -> tuple[FittedModel, OneModel]:
    """Fit once for all pages; returns the fit and what its pages run: real passes, or the single pass of the fit.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    prepared, fitting = page_to_fit(stack, fitting, observer)
    fitted = fit_model(prepared, fitting, observer, force=force)
    cheapest = with_cheapest_model(fitted, prepared.pixels, options, observer, pages=stack.pages)
    if stack.pages == 1 or not cheapest.model.contract.plain:
        return fitted, OneModel(cheapest.model)
    # The check on the fitted page says nothing about the others, so each of them is checked.
    return fitted, OneModel(fitted.model, SinglePass(fitted.fit.run, fitted.model, observer), options.seed)


def denoise_page(
    pages: NeighbourPages,
    index: int,
    models: PageModels,
    options: EnsembleOptions,
    observer: Observer,
    engine_holder: EngineHolder,
    kept: KeptPasses | None = None,
) -> DenoisedPage:
    """Denoise page `index`, from 0. Page 0 has the seed of `options`, and each following page the next seed.

    Args:
        pages: the pages, with as many neighbours as `models` know of.
        index: of the page.
        models: the models of the pages.
        options: of the passes.
        observer: gets notes and progress.
        engine_holder: keeps the engine from page to page.
        kept: as for `denoise_pixels`.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    image = pages.read_page(index)
    note_file(image, observer, of_stack=pages.stack.pages > 1)
    start = time.perf_counter()
    prepared = prepare_for_model(image, whole_range=not image.is_empty and models.whole_range)
    page = PageForModel(prepared) if image.is_empty else pages.for_model(index, prepared)
    fused_seconds = time.perf_counter() - start
    model = None if image.is_empty else models.model_for(index, page.prepared)
    start = time.perf_counter() - fused_seconds
    center = prepared.center()
    options = replace(options, seed=(options.seed + index) % 2**32, pages=pages.stack.pages)
    result = run_passes(
        model, page.prepared, options, observer, may_overwrite=True, engine_holder=engine_holder, kept=kept
    )
    result = page.restored(result)
    residual = center.residual(result.image)
    return DenoisedPage(prepared, result, options.seed, residual, center, time.perf_counter() - start)
