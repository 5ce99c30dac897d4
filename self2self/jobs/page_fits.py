"""Fit to every page of a stack; each fit starts from the weights of the previous fit.

Pages that hold nothing to denoise have no fit, so the next fit starts from that of an earlier page. Where a page is
finished and its fit is gone, a fit that starts from it makes it again, so that the bits do not depend on which pages
earlier commands have finished.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from self2self.image_io import Stack
from self2self.jobs.fit import fused_with_neighbours
from self2self.jobs.fit_config import FitOptions, run_folder
from self2self.jobs.fitted_model import fit_model
from self2self.jobs.observer import Observer
from self2self.jobs.page_neighbours import NeighbourPages
from self2self.jobs.prepared_image import PreparedImage, prepare, prepare_for_model
from self2self.jobs.results import FitResult
from self2self.machine.files import remove_folder, remove_leftovers
from self2self.runtime.model import Model
from self2self.train.recipes import FOLLOWING_SHARE
from self2self.train.run_folder import Run


@dataclass(slots=True)
class PageFits:
    """The fits of `--fit-pages each`: the fit to a page starts from the fit to the previous page.

    Attributes:
        stack: the pages.
        fitting: options of the first fit.
        first_page: the page of the first fit, from 0.
        neighbours: number of neighbours on each side that pages are fused with.
        first: run folder of the first fit. It holds the folders of the other fits. Each of those is removed when the
            next page is finished.
        whole_range: the decision of `prepare` for the first fit, which holds for all pages.
        observer: gets notes and progress.
        force: whether a fit with other settings may be replaced.
        first_fit: the first fit, if this job made or reused it.
        fit_seconds, export_seconds: time of all fits and exports so far.
    """

    stack: Stack
    fitting: FitOptions
    first_page: int
    first: Run
    whole_range: bool
    neighbours: int
    observer: Observer
    force: bool = False
    first_fit: FitResult | None = None
    fit_seconds: float = 0.0
    export_seconds: float = 0.0

    @classmethod
    def of(
        cls, stack: Stack, fitting: FitOptions, observer: Observer, *, force: bool = False
    ) -> tuple[PageFits, PreparedImage]:
        """The fits to the pages of `stack`, and the page of the first one: the first that holds something to denoise.

        Raises:
            Self2SelfError: the page cannot be used.
        """
        first_page = next((index for index in range(stack.pages) if not stack.read_page(index).is_empty), 0)
        first = prepare(stack.read_page(first_page), fitting.recipe)
        stack.mosaic = first.image.mosaic
        fused, fitting = fused_with_neighbours(stack, first_page, first, fitting, observer)
        run, count = run_folder(fused, fitting), int(fitting.neighbours)
        return cls(stack, fitting, first_page, run, first.whole_range, count, observer, force), fused

    def model_for(self, index: int, page: PreparedImage) -> Model:
        """Fit to page `index`, from 0, and export the model.

        Raises:
            Self2SelfError: anything that a user can cause.
        """
        for earlier in self._missing_before(index):
            self._fit(earlier, self._page(earlier))
        return self._fit(index, page)

    def _fit(self, index: int, page: PreparedImage) -> Model:
        """As `model_for`, with all earlier fits in their places."""
        options = replace(self.fitting, run=self._run(index).folder)
        if index > self.first_page:
            # `recipes.following` reduces the recipe's own steps by this factor, but leaves `--steps` unchanged.
            steps = self.fitting.steps and max(1, int(FOLLOWING_SHARE * self.fitting.steps))
            options = replace(options, init=str(self._run_before(index).folder), steps=steps)
        fitted = fit_model(page, options, self.observer, force=self.force)
        if index == self.first_page:
            self.first_fit = fitted.fit
        self.fit_seconds += fitted.fit.seconds
        self.export_seconds += fitted.export_seconds
        return fitted.model

    def page_finished(self, index: int) -> None:
        """Remove the fits from which no page after page `index`, from 0, starts; the first fit stays."""
        for earlier in self._fitted_pages(index + 1)[:-1]:
            _remove(self._run(earlier).folder)

    def clear(self) -> None:
        """Remove the fits of all pages but the first."""
        _remove(self._pages)
        remove_leftovers(self.first.folder)

    @property
    def _pages(self) -> Path:
        return self.first.folder / "pages"

    def _run(self, index: int) -> Run:
        return self.first if index == self.first_page else Run(self._pages / f"{index + 1:05}")

    def _run_before(self, index: int) -> Run:
        return self._run(max(self._fitted_pages(index), default=self.first_page))

    def _missing_before(self, index: int) -> list[int]:
        """The pages whose fits must be made for that of page `index`, in order: those after the last fit before it."""
        missing = []
        for earlier in range(index - 1, self.first_page - 1, -1):
            if self._run(earlier).is_fitted():
                break
            if not self.stack.read_page(earlier).is_empty:
                missing.append(earlier)
        return missing[::-1]

    def _page(self, index: int) -> PreparedImage:
        """Page `index`, from 0, as `model_for` gets it."""
        pages = NeighbourPages(self.stack, self.neighbours)
        prepared = prepare_for_model(pages.read_page(index), whole_range=self.whole_range)
        return pages.for_model(index, prepared).prepared

    def _fitted_pages(self, end: int) -> list[int]:
        """The pages before page `end`, from 0, whose fits are among the folders of pages, in order."""
        numbers = (int(folder.name) for folder in self._pages.glob("[0-9]*"))
        return sorted(number - 1 for number in numbers if number <= end)


def _remove(folder: Path) -> None:
    """Remove a folder of fits that nobody needs any more, as far as that works."""
    with contextlib.suppress(OSError):
        remove_folder(folder)
