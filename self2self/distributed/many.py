"""`denoise_many`: images on workers, volumes block by block on the same workers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from self2self.distributed.cluster import workers_of
from self2self.distributed.image_task import ImageAnswer, ImageTask, denoise_image, with_files_of_series
from self2self.errors import (
    EngineUnavailableError,
    InterruptedRun,
    OutputError,
    ResourceError,
    Self2SelfError,
    UsageError,
    first_line,
    typed,
    writing,
)
from self2self.image_io import check_readable
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.infer import denoise_job
from self2self.jobs.job_key import Job, denoise_identity, infer_identity
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.results import Result
from self2self.jobs.series import Series, fit_series
from self2self.jobs.tasks import is_lost, run_all
from self2self.jobs.volumes.volume_job import Workers, goes_by_blocks
from self2self.jobs.worker import RunFiles
from self2self.machine.files import atomic_write
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.version import VERSION


def denoise_many(
    sources: Iterable[str | os.PathLike[str]],
    client: Any,
    *,
    fitting: FitOptions | None = None,
    options: EnsembleOptions | None = None,
    outputs: OutputOptions | None = None,
    shared_disk: bool = True,
    like: Path | None = None,
    observer: Observer | None = None,
) -> Iterator[tuple[Path, Result | Self2SelfError]]:
    """Denoise images and volumes on the workers of a cluster; yields each source with its result or error, as it comes.

    The results have the bits of `denoise_job` on one machine of the same kind. A source whose worker ends or hangs is
    given to another one. Calling it again does what is left: a result of the same job is "done already".

    Args:
        sources: files of images, or volumes; they are taken one after the other.
        client: a `distributed.Client`, a `concurrent.futures.Executor`, or the `Workers` that `workers_of` makes of it.
        fitting: options of the fits. Each image has a fit of its own, in a folder of the worker that goes.
        options: of the passes.
        outputs: where results go; beside each source by default, and for several sources only into a folder.
        shared_disk: whether workers see the same files. If not, images and results travel as bytes; volumes cannot.
        like: an image to fit to, here and before the first task, so that this one fit serves all images; each worker
            that does not see its run folder gets it once. Volumes are then refused.
        observer: gets notes.

    Raises:
        UsageError: an option is wrong.
        Self2SelfError: the fit to `like` fails.
        ResourceError: no worker is left.
    """
    workers = client if isinstance(client, Workers) else workers_of(client)
    fitting, outputs = fitting or FitOptions(), outputs or OutputOptions()
    options = replace(options or EnsembleOptions(), uncertainty=False)
    observer = observer or Observer()
    fitting.check()
    options.check_values()
    if outputs.needs_uncertainty:
        raise UsageError("an uncertainty map and a report are of one image at a time. Leave them out.")
    if workers.executor is None:
        raise UsageError("client has no workers; expected those of a distributed.Client or an Executor.")
    series = None if like is None else fit_series(like, fitting, options, observer)
    files = None if series is None else RunFiles.of(series.run)
    batch = _Batch(fitting, options, outputs, observer, shared_disk, series, files)
    answers = run_all(
        workers.executor,
        partial(denoise_image, share=workers.share),
        batch.tasks(sources),
        window=workers.window,
        patience=workers.patience,
        on_wait=lambda: observer.raise_if_cancelled("some images"),
        completed=lambda task, answer: None if files is None else with_files_of_series(files, task, answer),
    )
    for task, answer in answers:
        yield task.shown, batch.received(task, answer)
        yield from batch.refused_so_far()
    yield from batch.refused_so_far()
    for path in batch.volumes:
        yield path, batch.denoise_volume(path, workers)
    if series is not None:
        series.note_unlike((), observer)


class _Batch:
    """The sources of one call.

    Attributes:
        volumes: volumes among them, which are denoised after the images.
    """

    def __init__(
        self,
        fitting: FitOptions,
        options: EnsembleOptions,
        outputs: OutputOptions,
        observer: Observer,
        shared_disk: bool,
        series: Series | None,
        files: RunFiles | None,
    ) -> None:
        self._fitting, self._options, self._outputs = fitting, options, outputs
        self._observer, self._shared_disk = observer, shared_disk
        self._series, self._files = series, None if files is None else files.without_contents
        self._refused: list[tuple[Path, Self2SelfError]] = []
        self.volumes: list[Path] = []

    def tasks(self, sources: Iterable[str | os.PathLike[str]]) -> Iterator[ImageTask]:
        """The tasks of the images, made when they are needed; sources that cannot be read are put aside."""
        for source in sources:
            path = Path(source)
            if self._series is None and goes_by_blocks(path, self._fitting, self._outputs):
                self.volumes.append(path)
                continue
            try:
                yield self._task(path)
            except Self2SelfError as error:
                self._refused.append((path, error))

    def _task(self, path: Path) -> ImageTask:
        check_readable(path)
        output = self._outputs.output_for(path)
        if output.resolve() == path.resolve():
            raise UsageError(f"{typed('-o', output)}: is the input itself. Choose another name.")
        if self._outputs.folder is not None:
            with writing(output.parent):
                output.parent.mkdir(parents=True, exist_ok=True)
        # A worker has another working directory.
        own = replace(self._outputs, output=output.resolve(), into_folder=False, roots=())
        content = None if self._shared_disk else path.read_bytes()
        return ImageTask(path.resolve(), path, self._fitting, self._options, own, VERSION, content, self._files)

    def refused_so_far(self) -> Iterator[tuple[Path, Self2SelfError]]:
        """Sources that cannot be read, each once."""
        refused, self._refused = self._refused, []
        yield from refused

    def received(self, task: ImageTask, answer: ImageAnswer | Exception) -> Result | Self2SelfError:
        """What a task ended in: its result, which is written here if it came as bytes, or its error.

        Raises:
            Exception: a bug on the worker.
        """
        if isinstance(answer, Exception):
            return _as_error(task.shown, answer)
        for note in answer.notes:
            self._observer.note(note)
        output = self._outputs.output_for(task.shown)
        result = replace(answer.result, source=task.shown, output=output)
        if answer.content is not None:
            own = self._outputs.for_job(self._identity(task.shown))
            try:
                if output.exists() and not own.has(output, "image") and not self._outputs.force:
                    raise OutputError(
                        f"{output}: exists already. Replace it with {typed('--force')}, or choose another place."
                    )
                atomic_write(output, answer.content, mark=own.mark("image", result.to_json()))
            except Self2SelfError as error:
                return error
        if self._series is not None:
            self._series.add(result)
        return result

    def _identity(self, path: Path) -> Job:
        """The identity of the work on an image, as the worker knows it."""
        if self._series is None:
            return denoise_identity(path, self._fitting, self._options)
        return infer_identity(path, self._series.run.onnx_path, self._options)

    def denoise_volume(self, path: Path, workers: Workers) -> Result | Self2SelfError:
        """Denoise a volume on the workers, block by block."""
        if not self._shared_disk:
            return UsageError(f"{path}: is a volume, which workers have to see. Copy it to a disk that they share.")
        try:
            return denoise_job(path, self._fitting, self._options, self._outputs, self._observer, workers=workers)
        except InterruptedRun:
            raise
        except Self2SelfError as error:
            return error


def _as_error(path: Path, error: Exception) -> Self2SelfError:
    """The error for the user; raises what is a bug."""
    if isinstance(error, Self2SelfError):
        text = str(error).replace(str(path.resolve()), str(path))
        return type(error)(text if str(path) in text else f"{path}: {text}")
    if is_lost(error):
        return ResourceError(
            f"{path}: the workers that had it ended ({first_line(error)}). Perhaps they lack memory; give the same "
            "command again, with fewer workers on a machine."
        )
    if isinstance(error, ModuleNotFoundError):
        return EngineUnavailableError(f"{path}: a worker lacks {error.name}. Install it there: pip install self2self")
    raise error
