"""Denoise one image in a process that works for others, with a run folder of its own that goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from self2self.errors import EngineUnavailableError
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.infer import denoise_job
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.results import Result
from self2self.jobs.worker import Share, at_work, naming_the_host
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
    """

    source: Path
    shown: Path
    fitting: FitOptions
    options: EnsembleOptions
    outputs: OutputOptions
    version: str
    content: bytes | None = None


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
    with at_work(share), naming_the_host(), scratch_folder() as scratch:
        if task.version != VERSION:
            raise EngineUnavailableError(
                f"has self2self {VERSION}, and the command is of {task.version}. Install that on {host_name()}: "
                f"pip install self2self=={task.version}"
            )
        notes = list[str]()
        fitting = task.fitting if task.fitting.run is not None else replace(task.fitting, run=scratch / "run")
        observer = Observer(note=notes.append)
        if task.content is None:
            result = denoise_job(task.source, fitting, task.options, task.outputs, observer)
            return ImageAnswer(result.without_pixels(), tuple(notes))
        folder = scratch / "in"
        folder.mkdir()
        source = folder / task.source.name
        source.write_bytes(task.content)
        output = scratch / task.outputs.output_for(source).name
        result = denoise_job(source, fitting, task.options, OutputOptions(output), observer)
        shown = tuple(note.replace(f"{folder}/", "").replace(f"{scratch}/", "") for note in notes)
        return ImageAnswer(result.without_pixels(), shown, output.read_bytes())
