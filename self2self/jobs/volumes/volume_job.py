"""`self2self denoise` for a volume: decide once, denoise the blocks anywhere, put the result in its place."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from self2self.errors import (
    InputError,
    InterruptedRun,
    OutputError,
    ResourceError,
    Self2SelfError,
    UsageError,
    first_line,
    typed,
    writing,
)
from self2self.image_io.volumes import (
    Target,
    Volume,
    check_volume_output,
    is_tiff_for_blocks,
    is_volume,
    open_volume,
)
from self2self.image_io.volumes.volume import is_remote
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.inputs import Part
from self2self.jobs.job_key import Job, differences, volume_identity
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.results import EarlierResult
from self2self.jobs.tasks import InThisProcess, Patience, is_lost, run_all
from self2self.jobs.volumes.block_work import BlockResult, BlockTask, denoise_block
from self2self.jobs.volumes.blocks import HALO, Block, cut, shape_of_blocks
from self2self.jobs.volumes.group import Group
from self2self.jobs.volumes.group_plan import GroupPlan
from self2self.jobs.volumes.layout import VolumeLayout, layout_of
from self2self.jobs.volumes.plan import groups_of, plan_group
from self2self.jobs.volumes.progress import Progress
from self2self.jobs.volumes.result import VolumeResult
from self2self.jobs.volumes.same_source import WatchedVolume, all_sha256, is_changed, values_sha256
from self2self.jobs.worker import ModelFile, Share, at_work, naming_the_host, worker_state
from self2self.machine.files import hidden_sibling
from self2self.machine.locks import folder_lock
from self2self.runtime.ensemble.options import EnsembleOptions

BLOCK_MEMORY = 10**9
"""Bytes for a block, unless the user gives another number. It decides the tiles of a large block, so it must not depend
on the machine."""
SAME_COMMAND_HINT = "the same command goes on."


@dataclass(frozen=True, slots=True)
class Workers:
    """Who denoises the blocks.

    Attributes:
        executor: runs tasks; None for this process alone, which then shows the progress of each block.
        window: number of blocks that are with the executor at a time.
        share: of its machine that each task may take; None for what the scheduler gave to the worker.
        patience: how often and how long a block is tried.
    """

    executor: Executor | None = None
    window: int = 4
    share: Share | None = None
    patience: Patience = field(default_factory=Patience)


def denoise_volume(
    path: Path,
    fitting: FitOptions,
    options: EnsembleOptions,
    outputs: OutputOptions,
    observer: Observer,
    *,
    part: Part | None = None,
    workers: Workers | None = None,
) -> VolumeResult | EarlierResult:
    """Denoise a volume block by block, with one fit for each group of channels.

    Blocks that earlier runs have finished are kept, whichever they are. The bits do not depend on who makes which
    block.

    Args:
        path: the noisy volume (`image_io.volumes`).
        fitting: options of the fit.
        options: options of the passes.
        outputs: where the result goes.
        observer: gets notes and progress.
        part: the blocks that this command makes; None for all. Whoever makes the last block finishes the result.
        workers: who denoises the blocks.

    Raises:
        InputError: blocks cannot be read; the others are finished and kept.
        Self2SelfError: anything else that a user can cause.
    """
    start = time.perf_counter()
    _refuse_options(path, fitting, outputs)
    with open_volume(path) as volume:
        layout = layout_of(volume, fitting.axes, fitting.channel_axis)
        identity = volume_identity({**volume.identity, "axes": layout.axes}, fitting, options)
        job = _VolumeJob(volume, layout, options, outputs, observer, identity)
        if (done := job.earlier_result()) is not None:
            return done
        for note in volume.notes:
            observer.note(f"{path}: {note}.")
        options.check()
        fit_seconds = job.prepare(fitting)
        blocks = job.blocks()
        kept = job.progress.records()
        if kept:
            observer.note(f"{job.output}: going on after {len(kept)} of {len(blocks)} blocks.")
        todo = [block for block in (part or Part()).of(blocks) if block.number not in kept]
        failed = job.run(todo, len(blocks), workers or Workers())
        records = job.progress.records()
        if failed:
            raise _failed_blocks(path, failed, len(blocks), len(records))
        result = VolumeResult(
            source=path,
            output=job.output,
            axes=layout.axes,
            shape=layout.shape,
            groups=job.groups,
            records=[records[number] for number in sorted(records)],
            blocks=len(blocks),
            kept=len(kept),
            seconds=time.perf_counter() - start,
            fit_seconds=fit_seconds,
        )
        if result.is_whole:
            job.finish(blocks, result)
        return replace(result, seconds=time.perf_counter() - start)


def goes_by_blocks(path: Path, fitting: FitOptions, outputs: OutputOptions) -> bool:
    """Whether `path` is denoised block by block: a volume, or a TIFF that is large or whose axes are named.

    A TIFF with options that are for images is denoised page by page.
    """
    asked = fitting.axes is not None or fitting.channel_axis is not None
    if is_volume(path):
        return True
    return (asked or not _option_for_images(fitting, outputs)) and is_tiff_for_blocks(path, asked=asked)


def _option_for_images(fitting: FitOptions, outputs: OutputOptions) -> str:
    """The first option that volumes cannot have; empty without one."""
    for_images = {
        typed("--uncertainty"): outputs.uncertainty is not None,
        typed("--report"): outputs.report is not None,
        typed("--fit-pages each"): fitting.fit_pages != "first",
        typed("--mosaic"): bool(fitting.mosaic),
    }
    return next((option for option, is_given in for_images.items() if is_given), "")


def _refuse_options(path: Path, fitting: FitOptions, outputs: OutputOptions) -> None:
    """Refuse options that are for images.

    Raises:
        UsageError: names the option.
    """
    if wrong := _option_for_images(fitting, outputs):
        raise UsageError(f"{wrong} is for images, and {path} is a volume. Leave it out.")


class _VolumeJob:
    """The work on one volume."""

    def __init__(
        self,
        volume: Volume,
        layout: VolumeLayout,
        options: EnsembleOptions,
        outputs: OutputOptions,
        observer: Observer,
        identity: Job,
    ) -> None:
        self.volume, self.layout, self.observer, self._identity = volume, layout, observer, identity
        memory = options.memory or BLOCK_MEMORY
        self.options = replace(options, uncertainty=False, memory=memory)
        self.output, self._force = outputs.output_for(volume.path), outputs.force
        self._into_folder = outputs.folder is not None
        self._stamp = volume.stamp()
        check_volume_output(volume.path, self.output)
        self._work = _work_folder(self.output)
        self.progress = Progress(self.output, self._work)
        self.target: Target = volume.target(self.output, self._work, layout.axes)
        self.groups: list[GroupPlan] = []
        self.models: dict[str, ModelFile] = {}

    def earlier_result(self) -> EarlierResult | None:
        """The result of the same job, if it is in its place; None if there is none, or it may be replaced.

        Raises:
            OutputError: another result is in the way.
        """
        if self._work.is_dir() or not self.target.exists() or self._force:
            return None
        about = self.target.made_by() or {}
        same_job = about.get("job") == self._identity.key
        if same_job and self._is_source(about.get("source") or {}):
            return EarlierResult(self.volume.path, self.output, about.get("result", {}))
        changed = differences(about["settings"], self._identity.settings) if "settings" in about else ""
        why = f", made with other options ({changed})" if changed else ""
        if same_job:
            why = f", and {self.volume.path} has changed since it was made"
        raise OutputError(
            f"{self.output}: exists already{why}. Replace it with {typed('--force')}, or choose another place with "
            f"{typed('-o')}."
        )

    def _is_source(self, known: dict[str, Any]) -> bool:
        """Whether the volume is the one that a finished result says it was made of, as far as that is known.

        Raises:
            InputError: it cannot be read.
        """
        if not known or known["stamp"] in (None, self._stamp):
            return True
        blocks = self._cut(groups_of(self.volume, self.layout))
        parts = (self.volume.read(block.selection(self.layout)) for block in blocks)
        return bool(all_sha256(values_sha256(self.layout.as_pages(part)) for part in parts) == known["sha256"])

    def _changed(self, stamp: str | None) -> str:
        """What was made of other values than the volume holds now, in words; empty for nothing."""
        plan, records = self.progress.plan_made_of(), self.progress.records().values()
        changed = sum(is_changed(self.volume, record, stamp) for record in records)
        fit = ["its fit"] if plan is not None and is_changed(self.volume, plan, stamp) else []
        return " and ".join([*fit, *([f"{changed} of its blocks"] if changed else [])])

    def _has_changed(self, changed: str) -> UsageError:
        return UsageError(
            f"{self.volume.path}: has changed since it was begun: {changed} would be different now. Start anew with "
            f"{typed('--force')}, or choose another place with {typed('-o')}."
        )

    def prepare(self, fitting: FitOptions) -> float:
        """Make the plan, unless an earlier run has made it, and the empty result; returns the seconds of the fits.

        Raises:
            Self2SelfError: anything that a user can cause.
        """
        folder = self.output.resolve().parent
        if self._into_folder and not is_remote(self.output):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        if not is_remote(self.output) and not folder.is_dir():
            raise OutputError(f"{self.output}: the folder {folder} does not exist. Create it with mkdir -p {folder}")
        settings = {"job": self._identity.key, **self._identity.settings, "memory": self.options.memory, "halo": HALO}
        self.progress.open(settings, force=self._force)
        if changed := self._changed(self._stamp):
            if not self._force:
                raise self._has_changed(changed)
            self.progress.remove()
            self.progress.open(settings, force=False)
        seconds = 0.0
        # Of several commands that begin at once, one fits, and the others wait for it.
        with folder_lock(self.progress.folder, wait=True):
            plan = self.progress.plan()
            if plan is None:
                seconds = self._make_plan(fitting)
            else:
                self.groups = plan
            self.models = {group.model: self.progress.model(group) for group in self.groups}
            self.target.create(self._block_shape(self._channels()))
        return seconds

    def _make_plan(self, fitting: FitOptions) -> float:
        seconds, models = 0.0, []
        watched = WatchedVolume(self.volume)
        groups = groups_of(watched, self.layout)
        for number, channels in enumerate(groups):
            # Not in the cache folder: which part is fitted depends on what can be read now.
            folder = fitting.run or self.progress.folder / "fit"
            own = folder if len(groups) == 1 else folder / f"channel-{number + 1}"
            plan, model, fitted = plan_group(
                Group(watched, self.layout, channels),
                replace(fitting, run=own, axes=None, channel_axis=None),
                self.options,
                self.observer,
                force=self._force,
            )
            self.groups.append(plan)
            models.append(ModelFile.of(model.path))
            seconds += fitted.fit.seconds
        self.progress.keep_plan(self.groups, models, {"reads": watched.reads, "stamp": self._stamp})
        return seconds

    def _block_shape(self, groups: Sequence[slice]) -> tuple[int, ...]:
        channels = max(group.stop - group.start for group in groups)
        return shape_of_blocks(self.layout, self.target.unit, channels)

    def _cut(self, groups: Sequence[slice]) -> Iterator[Block]:
        return cut(self.layout, self._block_shape(groups), tuple(groups))

    def _channels(self) -> list[slice]:
        """The channels of each group of the plan."""
        return [plan.channel_slice for plan in self.groups]

    def blocks(self) -> list[Block]:
        """All blocks of the volume."""
        return list(self._cut(self._channels()))

    def run(self, todo: list[Block], total: int, workers: Workers) -> list[tuple[Block, Self2SelfError]]:
        """Denoise blocks; returns those that cannot be read, each with its error.

        Raises:
            Self2SelfError: anything else; what is finished is kept.
        """
        failed: list[tuple[Block, Self2SelfError]] = []
        started = total - len(todo)
        answers = self._answers(todo, workers, started, total)
        try:
            for number, (task, answer) in enumerate(answers, started + 1):
                if isinstance(answer, InputError):
                    failed.append((task.block, answer))
                    self.observer.note(f"{answer}.")
                elif isinstance(answer, Exception):
                    raise self._explained(answer)
                else:
                    if answer.values is not None:
                        self.target.write(task.block.number, task.block.selection(self.layout), answer.values)
                    self.progress.finished(answer.record | {"stamp": self._stamp})
                if workers.executor is not None:
                    self.observer.page_started(min(number + 1, total), total)
        except KeyboardInterrupt:
            raise InterruptedRun(f"interrupted; finished blocks are kept: {SAME_COMMAND_HINT}") from None
        return failed

    def _answers(
        self, todo: list[Block], workers: Workers, started: int, total: int
    ) -> Iterator[tuple[BlockTask, BlockResult | Exception]]:
        if workers.executor is None:
            numbers = itertools.count(started + 1)

            def here(task: BlockTask) -> BlockResult:
                self.observer.page_started(next(numbers), total)
                return denoise_block(task, self.models[task.plan.model], self.volume, self.observer)

            try:
                yield from run_all(InThisProcess(), here, self._tasks(todo), window=1)
            finally:
                worker_state().close()
            return
        for sha256, model in self.models.items():
            mine = [block for block in todo if self.groups[block.group].model == sha256]
            # Whoever writes into the folder of the result sees the model there, too.
            travelling = model.by_path if self.target.shared and not is_remote(self.output) else model
            yield from run_all(
                workers.executor,
                partial(block_on_worker, model=travelling, share=workers.share),
                self._tasks(mine),
                window=workers.window,
                patience=workers.patience,
                on_wait=lambda: self.observer.raise_if_cancelled("some blocks"),
            )

    def _tasks(self, blocks: list[Block]) -> Iterator[BlockTask]:
        location = self.target.location if self.target.shared else ()
        source = self.volume.path if is_remote(self.volume.path) else self.volume.path.resolve()
        for block in blocks:
            plan = self.groups[block.group]
            yield BlockTask(source, self.layout, block, plan, self.options, location)

    def _explained(self, error: Exception) -> Exception:
        """The error that ends the command, with what is kept."""
        if isinstance(error, ResourceError):
            return ResourceError(f"{error} Finished blocks are kept: {SAME_COMMAND_HINT}")
        if is_lost(error):
            return ResourceError(
                f"{self.volume.path}: the workers of a block ended again and again ({first_line(error)}). "
                f"Perhaps they lack memory. Finished blocks are kept: {SAME_COMMAND_HINT}"
            )
        return error

    def finish(self, blocks: list[Block], result: VolumeResult) -> None:
        """Put the result in its place, and remove what was needed for it.

        Raises:
            UsageError: the volume has changed while it was denoised.
            OutputError, ResourceError: it cannot be written; the blocks are kept.
        """
        stamp = self.volume.stamp()
        if changed := self._changed(stamp):
            raise self._has_changed(changed)
        about = {"job": self._identity.key, "settings": self._identity.settings, "result": result.to_json()}
        source = {"stamp": stamp, "sha256": all_sha256(record["source"] for record in result.records)}
        about = json.loads(json.dumps(about | {"source": source}, default=str))
        try:
            with folder_lock(self.progress.folder, wait=True):
                # Another command, with the other parts, may have finished it while this one waited.
                if self.progress.is_open:
                    self.target.finish([block.selection(self.layout) for block in blocks], about)
                    self.progress.remove()
        except FileNotFoundError:
            return
        except ResourceError as error:
            raise ResourceError(f"{error} All blocks are kept: {SAME_COMMAND_HINT}") from error


def block_on_worker(task: BlockTask, model: ModelFile, share: Share | None) -> BlockResult:
    """Denoise a block in a process that works for others.

    Raises:
        Self2SelfError: names this machine.
    """
    with at_work(share), naming_the_host():
        return denoise_block(task, model)


def _work_folder(output: Path) -> Path:
    """The folder for unfinished work: beside the result, or here if that is elsewhere."""
    if is_remote(output):
        digest = hashlib.sha256(str(output).encode()).hexdigest()[:8]
        return hidden_sibling(Path.cwd() / output.name, f".{digest}.parts")
    return hidden_sibling(output.resolve(), ".parts")


def _failed_blocks(path: Path, failed: list[tuple[Block, Self2SelfError]], total: int, done: int) -> InputError:
    first = str(failed[0][1]).removeprefix(f"{path}: ")
    return InputError(
        f"{path}: {len(failed)} of {total} blocks cannot be read, and {done} are done and kept. The first: {first}."
    )
