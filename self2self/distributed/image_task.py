"""Denoise one image in a process that works for others, with a run folder of its own that goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from self2self.errors import EngineUnavailableError, writing
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.infer import denoise_job, infer_job
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.results import Result
from self2self.jobs.worker import ELSEWHERE, FilesNeededError, RunFiles, Share, WorkerState, at_work, naming_the_host
from self2self.machine.files import scratch_folder
from self2self.machine.system import host_name
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.version import VERSION


@dataclass(frozen=True, slots=True)
class ImageTask:
    """An image to denoise. It can be pickled.

    Attributes:
        source: path of the image as workers see it.
        shown: the same path, as the caller gave it.
        fitting, options: as for `denoise_job`.
        outputs: where the result goes, where the worker sees the files; of this image alone.
        version: of the caller's self2self.
        content: bytes of the image where workers do not see its file; the result then travels back as bytes, too.
        series: the fit of the series that the image is one of; None for a fit of its own.
    """

    source: Path
    shown: Path
    fitting: FitOptions
    options: EnsembleOptions
    outputs: OutputOptions
    version: str
    content: bytes | None = None
    series: RunFiles | None = None


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What became of an image.

    Attributes:
        result: of the job, without pixels.
        notes: what the user should know, one line each.
        content: bytes of the result; None if it is written.
    """

    result: Result
    notes: tuple[str, ...]
    content: bytes | None = None


def denoise_image(task: ImageTask, share: Share | None) -> ImageAnswer:
    """Denoise the image of `task`. It may be called again: a result of the same job is found and kept.

    Args:
        task: the image.
        share: as for `at_work`.

    Raises:
        Self2SelfError: anything that a user can cause; names this machine.
    """
    with at_work(share) as state, naming_the_host(), scratch_folder() as scratch:
        if task.version != VERSION:
            raise EngineUnavailableError(
                f"has self2self {VERSION}, and the command is of {task.version}. Install that on {host_name()}: "
                f"pip install self2self=={task.version}"
            )
        notes = list[str]()
        observer = Observer(note=notes.append)
        if task.content is None:
            result = _denoise(task, task.source, task.outputs, scratch, state, observer)
            return ImageAnswer(result.without_pixels(), tuple(notes))
        folder = scratch / "in"
        source = folder / task.source.name
        with writing(source, ELSEWHERE):
            folder.mkdir()
            source.write_bytes(task.content)
        output = scratch / task.outputs.output_for(source).name
        result = _denoise(task, source, OutputOptions(output), scratch, state, observer)
        shown = tuple(note.replace(f"{folder}/", "").replace(f"{scratch}/", "") for note in notes)
        return ImageAnswer(result.without_pixels(), shown, output.read_bytes())


def _denoise(
    task: ImageTask, source: Path, outputs: OutputOptions, scratch: Path, state: WorkerState, observer: Observer
) -> Result:
    """Denoise the file `source` with the fit of its series, or with one of its own in the folder `scratch`."""
    fitting = task.fitting
    if task.series is None:
        own = fitting if fitting.run is not None else replace(fitting, run=scratch / "run")
        return denoise_job(source, own, task.options, outputs, observer)
    (result,) = infer_job(
        state.model_of(task.series),
        [source],
        task.options,
        outputs,
        observer,
        nodata=fitting.nodata,
        of_series=True,
        engine_holder=state.engine_holder,
    )
    return result


def with_files_of_series(series: RunFiles, task: ImageTask, answer: object) -> ImageTask | None:
    """The task with the files of `series`, if its answer is that the worker neither has nor sees them; else None."""
    return replace(task, series=series) if isinstance(answer, FilesNeededError) else None
