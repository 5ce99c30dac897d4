"""Denoise a stack page by page with one engine, and keep finished pages on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from self2self.errors import EngineUnavailableError, InterruptedRun, OutputError, ResourceError, UsageError, typed
from self2self.image_io import Image, Stack, check_stack_output
from self2self.jobs.noise_notes import note_residual
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.page_cache import PageCache, PageRecord
from self2self.jobs.page_neighbours import NeighbourPages
from self2self.jobs.pages import PageModels, denoise_page
from self2self.jobs.results import EarlierResult, StackResult
from self2self.machine.marks import file_sha256
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.options import EnsembleOptions

SAME_COMMAND_HINT = "the same command goes on."
"""Hint for a user whose stack is not finished."""


@dataclass(slots=True)
class StackJob:
    """The work on one stack, from the check of its outputs to the written result.

    Attributes:
        stack: the noisy pages.
        options: options of the ensemble. Page 1 has their seed, and each following page the next seed.
        outputs: where results go.
        observer: gets notes and progress; each note only once.
        engine_holder: keeps the engine from page to page.
        notes_given: notes that are not repeated for further pages.
        output: file of the result; set by `check`.
        cache: the finished pages; set by `check`.
    """

    stack: Stack
    options: EnsembleOptions
    outputs: OutputOptions
    observer: Observer
    engine_holder: EngineHolder
    notes_given: set[str] = field(default_factory=set)
    output: Path = field(init=False)
    cache: PageCache = field(init=False)

    def __post_init__(self) -> None:
        self.options = replace(self.options, uncertainty=self.outputs.uncertainty is not None)
        self.observer = replace(self.observer, note=self._once(self.observer.note))

    def check(self) -> Image:
        """Refuse outputs that cannot be written, and damaged pages, before the first slow step; returns the first page.

        Raises:
            UsageError, OutputError, InputError: names the wrong option or page.
        """
        stack, outputs = self.stack, self.outputs
        if outputs.report is not None:
            raise UsageError(
                f"{typed('--report', outputs.report)}: shows one image, and {stack.path} has {stack.pages} pages. "
                "Leave it out, or save one page as a file of its own."
            )
        first = stack.read_page(0)
        self.output = outputs.output_for(first)
        self.cache = PageCache(self.output)
        check_stack_output(self.output, stack.pages)
        if outputs.uncertainty is not None:
            check_stack_output(outputs.uncertainty, stack.pages)
        self._check_outputs(first)
        # The user learns of a damaged page now, not after hours.
        stack.check_pages()
        for note in stack.notes:
            self.observer.note(f"{stack.path}: {note}.")
        return first

    def _check_outputs(self, first: Image) -> None:
        """As `OutputOptions.check_for`; deviations that an earlier run has written are no obstacle."""
        written = self.outputs.uncertainty is not None and self.cache.deviations_written
        (replace(self.outputs, uncertainty=None) if written else self.outputs).check_for(first)

    def alone(self, first: Image) -> AbstractContextManager[None]:
        """Keep other commands from the pages and the output until the end of the block; as `OutputOptions.alone`."""
        return self.outputs.alone(first, lambda: self._check_outputs(first))

    def earlier_result(self, first: Image) -> EarlierResult | None:
        """What an earlier run of the same job has written, if nothing of it is left to do; else None.

        Args:
            first: the first page.
        """
        mark = None if self.cache.folder.exists() else self.outputs.finished(first)
        return None if mark is None else EarlierResult(self.stack.path, self.output, mark.result or {})

    def begin(self, identity: dict[str, str]) -> frozenset[int]:
        """Open the cache; returns the pages that earlier runs have finished, from 0, whichever they are.

        Args:
            identity: hash that identifies the model, or the fits, of the pages.

        Raises:
            UsageError: the earlier run had other settings.
            OutputError, ResourceError: the cache cannot be created.
        """
        continued = self.cache.open(self._settings(identity), force=self.outputs.force)
        pages = range(self.stack.pages) if continued else range(0)
        kept = frozenset(index for index in pages if self.cache.record(index) is not None)
        if kept:
            self.observer.note(f"{self.output}: going on after {len(kept)} of {self.stack.pages} pages.")
        return kept

    def run(self, kept: frozenset[int], models: PageModels) -> None:
        """Denoise all pages but `kept`, and store each in the cache.

        Args:
            kept: pages that are already in the cache, from 0.
            models: the models of the pages; pages that hold nothing to denoise need none.

        Raises:
            Self2SelfError: anything that a user can cause; finished pages stay in the cache.
        """
        pages = NeighbourPages(self.stack, models.neighbours)
        todo = [index for index in range(self.stack.pages) if index not in kept]
        for count, index in enumerate(todo, len(kept)):
            self.observer.page_started(index + 1, self.stack.pages)
            try:
                self._denoise_page(index, pages, models)
            except KeyboardInterrupt:
                raise InterruptedRun(
                    f"interrupted; {count} of {self.stack.pages} pages are kept: {SAME_COMMAND_HINT}"
                ) from None
            except ResourceError as error:
                raise ResourceError(
                    f"{error} {count} of {self.stack.pages} pages are kept: {SAME_COMMAND_HINT}"
                ) from error
            models.page_finished(index)

    def _denoise_page(self, index: int, pages: NeighbourPages, models: PageModels) -> None:
        kept = self.cache.kept_passes(index, lambda text: self.observer.note(f"page {index + 1}: {text}"))
        page = denoise_page(pages, index, models, self.options, self.observer, self.engine_holder, kept)
        values, deviations = page.values(), page.deviations()
        if page.residual.correlated and "correlated" not in self.notes_given and page.center.has_noise:
            self.notes_given.add("correlated")
            where = f"{self.stack.path}: in what was removed from page {index + 1},"
            note_residual(where, page.prepared.image, page.residual, self.observer)
        self.cache.keep(page.record(index), values, deviations)
        kept.remove()

    def write(self) -> list[PageRecord]:
        """Write the stack, except for files that are written already; returns the records of the pages.

        Raises:
            OutputError, ResourceError: the stack cannot be written; the pages stay in the cache.
        """
        stack, cache, outputs = self.stack, self.cache, self.outputs
        records = [page for index in range(stack.pages) if (page := cache.record(index)) is not None]
        ways_made = {(page.provider, tuple(page.tile or ())) for page in records}
        if len(ways_made) > 1:
            self.observer.note(
                f"{self.output}: not all pages ran on one engine with tiles of one size; "
                "the JSON of the result tells those of each."
            )
        try:
            if outputs.uncertainty is not None and not cache.deviations_written:
                if not outputs.has(outputs.uncertainty, "uncertainty"):
                    self._check_free(outputs.uncertainty)
                    deviations = cache.pages(stack.pages, deviation=True)
                    stack.write(outputs.uncertainty, deviations, float_map=True, mark=outputs.mark("uncertainty"))
                cache.mark_deviations_written()
            if not outputs.has(self.output, "image"):
                self._check_free(self.output)
                stack.write(self.output, cache.pages(stack.pages), mark=outputs.mark("image"))
        except ResourceError as error:
            raise ResourceError(f"{error} All {stack.pages} pages are kept: {SAME_COMMAND_HINT}") from error
        return records

    def finish(self) -> None:
        """Remove the cache, as the last act of the job.

        Raises:
            OutputError: the folder cannot be removed.
        """
        self.cache.remove()

    def result(self, records: list[PageRecord], kept: int, start: float) -> StackResult:
        """The result of the job, which began at `start`; the caller adds its fits."""
        return StackResult(
            source=self.stack.path,
            output=self.output,
            uncertainty=self.outputs.uncertainty,
            pages=records,
            kept=kept,
            seconds=time.perf_counter() - start,
        )

    def _check_free(self, path: Path) -> None:
        if path.exists() and not self.outputs.force:
            raise OutputError(f"{path}: exists already. Replace it with {typed('--force')}; the pages are kept.")

    def _settings(self, identity: dict[str, str]) -> dict[str, Any]:
        options, uncertainty = self.options, self.outputs.uncertainty
        try:
            engine = get_engine(options.engine).name
        except EngineUnavailableError:
            engine = get_engine("auto").name
        return {
            # This reads the whole file, because the first page already needs to know whether pages may be kept.
            "source": file_sha256(self.stack.path),
            "pages": self.stack.pages,
            "engine": engine,
            "passes": options.passes,
            "tolerance": options.tolerance,
            "masks": options.balanced,
            "flips": options.flips,
            "seed": options.seed,
            "memory": options.memory,
            "mask source": options.mask_source,
            "uncertainty": None if uncertainty is None else str(uncertainty.resolve()),
            **identity,
        }

    def _once(self, note: Callable[[str], None]) -> Callable[[str], None]:
        """Wrap `note` so that it gets every text only once."""

        def note_once(text: str) -> None:
            if text not in self.notes_given:
                self.notes_given.add(text)
                note(text)

        return note_once
