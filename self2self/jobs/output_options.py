"""Where `self2self infer` and `self2self denoise` write their results; wrong outputs are refused before the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self2self.errors import OutputError, UsageError, typed, writing
from self2self.image_io import EXTENSIONS, Image, check_output, default_output
from self2self.image_io.volumes import is_volume
from self2self.jobs.job_key import Job, differences
from self2self.jobs.observer import Observer
from self2self.machine.files import hidden_sibling, remove_leftovers
from self2self.machine.locks import output_lock
from self2self.machine.marks import Mark, read_mark
from self2self.report.html import check_available
from self2self.runtime.ensemble.kept_passes import KeptPasses, remove_kept

if TYPE_CHECKING:
    from self2self.runtime.model import Model


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Files that a job writes.

    Attributes:
        output: file or folder; a text with a slash at its end is a folder. None for a file beside the input.
        uncertainty: file for the standard deviation over the passes; None for no file.
        report: file for the HTML report; None for no report. The report of several images is one page about all.
        force: whether existing files may be replaced.
        wait: whether to wait while another command writes the same output.
        job: key of the job (`job_key`), by which files that an earlier run of the same command has written are known.
            A job sets it; empty knows no files.
        settings: the settings of that job, for the message about a file that another job has made.
        into_folder: whether `output` is a folder, which is made if it is missing; an existing folder always is one.
        roots: folders whose inner folders `output` gets, too.
    """

    output: Path | str | None = None
    uncertainty: Path | None = None
    report: Path | None = None
    force: bool = False
    wait: bool = False
    job: str = ""
    into_folder: bool = False
    settings: dict[str, Any] | None = None
    roots: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        # Names of files may be given as strings, too. A path has lost the slash.
        if isinstance(self.output, str) and self.output.endswith(("/", os.sep)):
            object.__setattr__(self, "into_folder", True)
        for name in ("output", "uncertainty", "report"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(value))

    @property
    def needs_uncertainty(self) -> bool:
        """Whether the standard deviation over the passes is written or shown."""
        return self.uncertainty is not None or self.report is not None

    @property
    def folder(self) -> Path | None:
        """The folder for results; None if `output` names a file, or nothing."""
        if self.output is None or not (self.into_folder or Path(self.output).is_dir()):
            return None
        if not self.into_folder and is_volume(Path(self.output)):
            # A zarr is a folder, too, which the result is to replace.
            return None
        return Path(self.output)

    def for_job(self, job: Job) -> OutputOptions:
        """A copy that knows the files of `job`."""
        return replace(self, job=job.key, settings=job.settings)

    def refuse_existing(self, source: Path) -> None:
        """Refuse a result for the file `source` that another job has made, before anything slow is loaded or read.

        Raises:
            OutputError: says in which options the two jobs differ, where the file tells.
        """
        output = self.output_for(source)
        if not output.is_file() or self._may_replace(output, "image") or output.resolve() == source.resolve():
            return
        earlier = read_mark(output, None)
        changed = differences(earlier.settings or {}, self.settings or {}) if earlier and earlier.settings else ""
        why = f", made with other options ({changed})" if changed else ""
        raise OutputError(
            f"{output}: exists already{why}. Replace it with {typed('--force')}, or choose another place with "
            f"{typed('-o')}."
        )

    def for_several(self, roots: tuple[Path, ...] = ()) -> OutputOptions:
        """A copy for each of several images: `output` is a folder, and there is no report of a single image.

        Args:
            roots: as the attribute; those of this object by default.

        Raises:
            UsageError: `output` is an existing file, or has the extension of an image.
        """
        output = self.output
        if output is not None and self.folder is None:
            output = Path(output)
            if output.exists() or output.suffix.lower() in EXTENSIONS:
                raise UsageError(
                    f"{typed('-o', output)}: names a file; for several images it has to be a folder: "
                    f"{typed('-o results')}"
                )
        return replace(self, into_folder=output is not None, report=None, roots=roots or self.roots)

    def check(self, images: list[Path]) -> None:
        """Refuse options that cannot work, before the first slow step.

        Raises:
            UsageError, OutputError, EngineUnavailableError: names the wrong option.
        """
        if self.report is not None:
            check_available(f"{typed('--report', self.report)}")
        if len(images) > 1:
            self._check_several(images)

    def _check_several(self, images: list[Path]) -> None:
        outputs = self.for_several()
        if self.uncertainty is not None:
            raise UsageError(f"{typed('--uncertainty')} works with one image at a time.")
        sources: dict[Path, Path] = {}
        seen: set[Path] = set()
        for path in images:
            if path in seen:
                raise UsageError(f"{path} is given twice. Give it once.")
            seen.add(path)
            output = outputs.output_for(path)
            if (other := sources.setdefault(output.resolve(), path)) is not path:
                # Otherwise the second image would count as done as soon as the first is written.
                raise UsageError(f"{other} and {path} would both be written to {output}. Give one at a time.")

    def check_for(self, image: Image) -> None:
        """Refuse outputs for `image` that cannot be written, before the image is denoised; make a missing folder.

        Files that the same job has written are no obstacle. Leftovers of killed runs beside the outputs are removed.

        Raises:
            UsageError, OutputError: names the wrong option.
        """
        output = self.output_for(image)
        if self.folder is not None:
            with writing(output.parent):
                output.parent.mkdir(parents=True, exist_ok=True)
        if output.resolve() == image.path.resolve():
            raise UsageError(f"{typed('-o', output)}: is the input itself. Choose another name.")
        check_output(output, force=self._may_replace(output, "image"), like=image)
        if self.uncertainty is not None:
            if self.uncertainty.resolve() in (output.resolve(), image.path.resolve()):
                raise UsageError(
                    f"{typed('--uncertainty', self.uncertainty)}: is the image itself. Choose another name."
                )
            force = self._may_replace(self.uncertainty, "uncertainty")
            check_output(self.uncertainty, force=force, float_map=True, like=image)
        if self.report is not None:
            from self2self.report import check_report

            check_report(self.report, force=self._may_replace(self.report, "report"))
        for folder in {path.resolve().parent for path in self._files(image).values()}:
            remove_leftovers(folder)

    @contextmanager
    def alone(self, image: Image, check: Callable[[], None] | None = None) -> Iterator[None]:
        """Keep other commands from writing the output for `image` until the end of the block.

        Args:
            image: the image, or the first page of a stack; its outputs were checked.
            check: checks them again if this call has waited for another command; `check_for` by default.

        Raises:
            BusyError: another command writes it, and `wait` is off.
            UsageError, OutputError: as for `check_for`.
        """
        with output_lock(self.output_for(image), wait=self.wait) as waited:
            if waited:
                (check or partial(self.check_for, image))()
            yield

    def mark(self, role: str, result: dict[str, Any] | None = None) -> Mark:
        """The mark of the file that is the ``"image"``, the ``"uncertainty"`` or the ``"report"`` of this job."""
        return Mark(self.job and f"{self.job}:{role}", result, self.settings)

    def has(self, path: Path, role: str) -> bool:
        """Whether an earlier run of the same job has written `path`, so that it need not be written again."""
        return not self.force and read_mark(path, self.mark(role).job) is not None

    def finished(self, image: Image | Path) -> Mark | None:
        """The mark of the result for `image`, if an earlier run of the same job has written all files; else None."""
        if self.force or not all(self.has(path, role) for role, path in self._files(image).items()):
            return None
        return read_mark(self.output_for(image), self.mark("image").job)

    def kept_passes(self, image: Image | Path, note: Callable[[str], None]) -> KeptPasses | None:
        """Where the passes of this job for `image` are kept until the result is written; None for an unknown job."""
        if not self.job:
            return None
        output = self.output_for(image)
        return KeptPasses(_passes_folder(output), self.job, lambda text: note(f"{output}: {text}"))

    def remove_kept(self, image: Image | Path) -> None:
        """Remove passes that a kill has left beside the finished result for `image`."""
        remove_kept(_passes_folder(self.output_for(image)))

    def _files(self, image: Image | Path) -> dict[str, Path]:
        """The files of this job by their roles."""
        files = {"image": self.output_for(image), "uncertainty": self.uncertainty, "report": self.report}
        return {role: path for role, path in files.items() if path is not None}

    def _may_replace(self, path: Path, role: str) -> bool:
        return self.force or self.has(path, role)

    def check_model(self, model: Model) -> None:
        """Refuse outputs that a plain model cannot make, because it has no passes that differ.

        Raises:
            UsageError: names the option.
        """
        if model.contract.plain and self.needs_uncertainty:
            option = typed("--report") if self.uncertainty is None else typed("--uncertainty")
            raise UsageError(
                f"{option} needs passes with masks, and {model.path} is a plain model. Use the model with masks: "
                f"self2self infer RUN IMAGE {option} FILE"
            )

    def skips(self, path: Path, observer: Observer) -> bool:
        """Whether the result for `path`, one of several images, exists already; if so, `observer` gets a note."""
        output = self.output_for(path)
        if self.force or not (output.is_file() or is_volume(output)):
            return False
        observer.note(f"{output}: exists already, so {path} is skipped. To replace it: {typed('--force')}")
        # To look for what else a kill has left takes as long as the folder is full, so `ImageBatch` does it once.
        if (folder := _passes_folder(output)).is_dir():
            remove_kept(folder)
        return True

    def _inner_folder(self, image: Image | Path) -> Path:
        """The folder of `image` within the one of `roots` that has it; empty if none has."""
        path = image.path if isinstance(image, Image) else image
        root = next((root for root in self.roots if path.is_relative_to(root)), path.parent)
        return path.parent.relative_to(root)

    def output_for(self, image: Image | Path) -> Path:
        """The file for the result of `image`; for a path, the extension decides the format."""
        if self.folder is not None:
            return self.folder / self._inner_folder(image) / default_output(image).name
        return default_output(image) if self.output is None else Path(self.output)


def _passes_folder(output: Path) -> Path:
    return hidden_sibling(output.resolve(), ".passes")
