"""A stack on its way through one engine, page by page, with what is done kept on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import EngineUnavailableError, InterruptedRun, OutputError, ResourceError, UsageError
from self2self.image_io import Image, Stack, check_stack_output, image_hash
from self2self.image_io.value_range import restore, to_whole_range
from self2self.imaging.noise import CORRELATED_NOTE, center_crop, has_noise, measure_residual
from self2self.imaging.outliers import remove_hot_pixels
from self2self.jobs.ensemble_options import EnsembleOptions
from self2self.jobs.fit import FitResult
from self2self.jobs.infer import run_passes
from self2self.jobs.observer import Observer, tell_notes
from self2self.jobs.page_cache import PageCache, PageRecord, file_hash
from self2self.machine.system import peak_memory_bytes
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.model import Model

GO_ON = "the same command goes on."


@dataclass(frozen=True, slots=True)
class StackResult:
    """A written stack.

    Attributes:
        source, output: files.
        uncertainty: the file of the standard deviations, or None.
        pages: how each page was made, in order.
        kept: how many of them an earlier run had left.
        fitted: the fit, or the first of them, when the job made one.
        fit_seconds, export_seconds: of all fits and exports that this job made.
        seconds: in all.
    """

    source: Path
    output: Path
    uncertainty: Path | None
    pages: list[PageRecord]
    kept: int
    fitted: FitResult | None
    fit_seconds: float
    export_seconds: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """What `infer --json` and `denoise --json` print for a stack."""
        values: dict[str, Any] = {
            "image": str(self.source),
            "output": str(self.output),
            "engine": self.pages[-1].engine,
            "provider": self.pages[-1].provider,
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
        if self.fitted is not None:
            fit = self.fitted.to_json()
            values |= {key: fit[key] for key in ("run", "recipe", "init", "steps", "loss", "device", "quality_term")}
        return values

    @property
    def standard_error(self) -> float | None:
        """RMS over the pages; None if one of them does not know its own."""
        errors = [page.standard_error for page in self.pages]
        known = [error for error in errors if error is not None]
        return math.sqrt(sum(error**2 for error in known) / len(known)) if len(known) == len(errors) else None


@dataclass(slots=True)
class StackJob:
    """A stack on its way through one engine, page by page.

    Attributes:
        stack: the pages.
        options: of the ensemble; page 1 has its seed, and every page after it the next.
        observer: whom to tell.
        engine_holder: keeps the engine from page to page.
        told: notes that need not be told again for every page.
    """

    stack: Stack
    options: EnsembleOptions
    observer: Observer
    engine_holder: EngineHolder
    told: set[str] = field(default_factory=set)
    output: Path = field(init=False)
    parts: PageCache = field(init=False)

    def __post_init__(self) -> None:
        self.observer = replace(self.observer, note=self._once(self.observer.note))

    def check(self) -> None:
        """Refuse what cannot be written, before anything slow.

        Raises:
            UsageError, OutputError, InputError: says which option.
        """
        stack, options = self.stack, self.options
        if options.report is not None:
            raise UsageError(
                f"--report {options.report}: shows one image, and {stack.path} has {stack.pages} pages. "
                "Leave it out, or save one page as a file of its own."
            )
        first = stack.read_page(0)
        self.output = options.output_for(first)
        self.parts = PageCache(self.output)
        check_stack_output(self.output, stack.pages)
        if options.uncertainty is not None:
            check_stack_output(options.uncertainty, stack.pages)
            if self.parts.deviations_written:
                # By this very run, before it was stopped.
                options = replace(options, uncertainty=None)
        options.check_for(first)
        # A damaged page is better told now than after hours.
        stack.check_pages()
        for note in stack.notes:
            self.observer.note(f"{stack.path}: {note}.")

    def begin(self, identity: dict[str, str]) -> int:
        """How many pages an earlier run has left.

        Args:
            identity: what the model of the pages is.

        Raises:
            UsageError: it had other settings.
            OutputError, ResourceError: pages cannot be kept.
        """
        continued = self.parts.open(self._settings(identity), force=self.options.force)
        kept = 0
        while continued and kept < self.stack.pages and self.parts.figures(kept) is not None:
            kept += 1
        if kept:
            self.observer.note(f"{self.output}: going on after page {kept} of {self.stack.pages}.")
        return kept

    def run(
        self, kept: int, model_for: Callable[[int, Image], Model], done: Callable[[int], None] = lambda index: None
    ) -> None:
        """Make the pages after the first `kept`, and keep each.

        Args:
            kept: pages that are there.
            model_for: the model of a page, from its number, counted from 0, and its image.
            done: told the number of every page that is kept.

        Raises:
            Self2SelfError: anything that a user can cause; the pages that are done stay.
        """
        for index in range(kept, self.stack.pages):
            self.observer.paged(index + 1, self.stack.pages)
            try:
                self._page(index, model_for)
            except KeyboardInterrupt:
                raise InterruptedRun(f"interrupted; {index} of {self.stack.pages} pages are kept: {GO_ON}") from None
            except ResourceError as error:
                raise ResourceError(f"{error} {index} of {self.stack.pages} pages are kept: {GO_ON}") from error
            done(index)

    def _page(self, index: int, model_for: Callable[[int, Image], Model]) -> None:
        options = self.options
        image = self.stack.read_page(index)
        tell_notes(image, self.observer)
        digest = image_hash(image)
        model = model_for(index, image)
        if model.contract.whole_range:
            image = to_whole_range(image)
        start = time.perf_counter()
        noisy = remove_hot_pixels(center_crop(image.pixels).copy(), in_place=True)
        seed = (options.seed + index) % 2**32
        done = run_passes(
            model,
            image,
            replace(options, seed=seed),
            self.observer,
            uncertainty=options.uncertainty is not None,
            may_overwrite=True,
            engine_holder=self.engine_holder,
        )
        residual = measure_residual(noisy, center_crop(done.image))
        values = restore(done.image, image.offset, image.scale, image.dtype)
        deviation = None
        if options.uncertainty is not None and done.uncertainty is not None:
            deviation = restore(done.uncertainty, 0.0, image.scale, np.dtype(np.float32))
        figures = PageRecord(
            page=index + 1,
            image_sha256=digest,
            seed=seed,
            engine=done.engine,
            provider=done.provider,
            tile=None if done.tile is None else list(done.tile),
            fallback=done.fallback,
            passes=done.passes,
            standard_error=None if math.isnan(done.standard_error) else done.standard_error,
            range=list(image.range),
            sigma=round(residual.noise.sigma, 3),
            residual_mean=round(residual.mean, 3),
            residual_deviation=round(residual.standard_deviation, 3),
            correlated=residual.correlated,
            seconds=round(time.perf_counter() - start, 3),
        )
        if residual.correlated and "correlated" not in self.told and has_noise(noisy):
            self.told.add("correlated")
            text = CORRELATED_NOTE.format(residual.noise.correlation)
            self.observer.note(f"{self.stack.path}: in what was removed from page {index + 1}, {text}")
        self.parts.keep(figures, values, deviation)

    def write(self) -> list[PageRecord]:
        """Put the pages together, and remove what was kept; the figures of all pages.

        Raises:
            OutputError, ResourceError: it cannot be written; the pages stay.
        """
        stack, parts, options = self.stack, self.parts, self.options
        figures = [page for index in range(stack.pages) if (page := parts.figures(index)) is not None]
        made = {(page.provider, tuple(page.tile or ())) for page in figures}
        if len(made) > 1:
            self.observer.note(f"{self.output}: not all pages ran on one engine with tiles of one size; see --json.")
        try:
            if options.uncertainty is not None and not parts.deviations_written:
                self._still_free(options.uncertainty)
                stack.write(options.uncertainty, parts.pages(stack.pages, deviation=True), float_map=True)
                parts.mark_deviations_written()
            self._still_free(self.output)
            stack.write(self.output, parts.pages(stack.pages))
        except ResourceError as error:
            raise ResourceError(f"{error} All {stack.pages} pages are kept: {GO_ON}") from error
        parts.remove()
        return figures

    def finished(self, figures: list[PageRecord], kept: int, start: float) -> StackResult:
        """What was made since `start`, without fits."""
        seconds = time.perf_counter() - start
        return StackResult(
            self.stack.path, self.output, self.options.uncertainty, figures, kept, None, 0.0, 0.0, seconds
        )

    def _still_free(self, path: Path) -> None:
        if path.exists() and not self.options.force:
            raise OutputError(f"{path}: exists already. Replace it with --force; the pages are kept.")

    def _settings(self, identity: dict[str, str]) -> dict[str, Any]:
        options = self.options
        try:
            engine = get_engine(options.engine).name
        except EngineUnavailableError:
            engine = get_engine("auto").name
        return {
            # Read once more, but whole: whether pages may be kept has to be known before the first of them.
            "source": file_hash(self.stack.path),
            "pages": self.stack.pages,
            "engine": engine,
            "passes": options.passes,
            "tolerance": options.tolerance,
            "masks": options.balanced,
            "flips": options.flips,
            "seed": options.seed,
            "memory": options.memory,
            "mask source": options.mask_source,
            "uncertainty": None if options.uncertainty is None else str(options.uncertainty.resolve()),
            **identity,
        }

    def _once(self, note: Callable[[str], None]) -> Callable[[str], None]:
        def tell(text: str) -> None:
            if text not in self.told:
                self.told.add(text)
                note(text)

        return tell
