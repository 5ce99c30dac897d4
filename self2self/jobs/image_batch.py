"""Keep track of the images of one command: which to denoise, which to skip, and which failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from self2self.errors import InterruptedRun, Self2SelfError
from self2self.jobs.inputs import Part
from self2self.jobs.manifest import Manifest
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.results import Result
from self2self.machine.files import remove_leftovers


@dataclass(slots=True)
class ImageBatch:
    """The images of one command. The image of a command for one is never skipped, and its error ends the command.

    Attributes:
        images: all images of the command.
        outputs: where results go.
        on_error: gets the message for every image that fails; None raises the error instead.
        manifest: gets the state of every image; None keeps none.
        several: whether the command means several images, even if there is one among them.
        part_of_volume: which of the blocks of the single volume that is meant; None for all.
        skipped: images whose result exists.
        failed: images that failed, each with its error.
    """

    images: list[Path]
    outputs: OutputOptions
    on_error: Callable[[str], None] | None = None
    manifest: Manifest | None = None
    several: bool = False
    part_of_volume: Part | None = None
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, Self2SelfError]] = field(default_factory=list)
    _numbers: dict[Path, int] = field(init=False, repr=False)
    _cleaned: set[Path] = field(init=False, repr=False, default_factory=set)
    _start: float = field(init=False, repr=False, default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.several |= len(self.images) > 1
        # Looked up for every image, so that the time before the first image grows only linearly.
        self._numbers = {path: number for number, path in enumerate(self.images, 1)}
        if self.manifest is not None:
            self.manifest.begin(self.images)

    def skips(self, path: Path, observer: Observer) -> bool:
        """Whether to skip `path`, because its result exists; a note tells the user so."""
        if not self.several or not self.outputs.skips(path, observer):
            return False
        self.skipped.append(path)
        folder = self.outputs.output_for(path).resolve().parent if self.outputs.folder is None else self.outputs.folder
        if folder not in self._cleaned:
            self._cleaned.add(folder)
            remove_leftovers(folder)
        if self.manifest is not None:
            self.manifest.skipped(path)
        return True

    def begin(self, path: Path, observer: Observer) -> None:
        """Report which of several images is next; a single one needs no number."""
        self._start = time.perf_counter()
        if self.several:
            observer.image_started(path, self._numbers[path], len(self.images))

    def finished(self, path: Path, result: Result) -> None:
        """Record that `path` is done."""
        if self.manifest is not None:
            self.manifest.finished(path, result, time.perf_counter() - self._start)

    @contextmanager
    def attempt(self, path: Path) -> Iterator[None]:
        """Record an error of one of several images, so that the other images can still be denoised.

        Raises:
            Self2SelfError: the error of a single image, any error if `on_error` is None, or `InterruptedRun`.
        """
        try:
            yield
        except InterruptedRun:
            raise
        except Self2SelfError as error:
            if self.manifest is not None:
                self.manifest.failed(path, error, time.perf_counter() - self._start)
            if not self.several:
                raise
            named = _naming(path, error)
            if self.on_error is None:
                raise named from error
            self.on_error(str(named))
            self.failed.append((path, named))

    @property
    def exit_code(self) -> int:
        """Exit code of the first image that failed; 0 if none failed."""
        return self.failed[0][1].exit_code if self.failed else 0

    def summary(self) -> str:
        """How many images were written, for people; empty if none was skipped and none failed."""
        if not self.skipped and not self.failed:
            return ""
        total = len(self.images)
        parts = [f"{total - len(self.skipped) - len(self.failed)} of {total} images written"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        if self.failed:
            parts.append(f"{len(self.failed)} failed: {', '.join(str(path) for path, _ in self.failed)}")
        return ", ".join(parts)

    def to_json(self, finished: list[dict[str, Any]]) -> dict[str, Any]:
        """What `--json` prints for several images."""
        failed = [
            {"image": str(path), "message": str(error), "exit_code": error.exit_code} for path, error in self.failed
        ]
        return {"images": finished, "skipped": [str(path) for path in self.skipped], "failed": failed}


def _naming(path: Path, error: Self2SelfError) -> Self2SelfError:
    """The error, with the image in its message: among several images, a message without it tells nothing."""
    if re.search(rf"(?<!\S){re.escape(str(path))}(?![^\s:,;.])", str(error)):
        return error
    named = type(error)(f"{path}: {error}")
    named.__dict__.update(error.__dict__)
    return named
