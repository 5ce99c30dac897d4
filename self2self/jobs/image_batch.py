"""Several images in one command: which are to be done, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from self2self.errors import InterruptedRun, Self2SelfError
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions


@dataclass(slots=True)
class ImageBatch:
    """The images of one command; a single one is no batch: it is never skipped, and its error ends the command.

    Attributes:
        images: all of them.
        outputs: where results go.
        on_error: told of every image that cannot be done; None raises its error instead.
        skipped: images whose result is there, and results of others among them.
        failed: images that could not be done, and why.
    """

    images: list[Path]
    outputs: OutputOptions
    on_error: Callable[[str], None] | None = None
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, Self2SelfError]] = field(default_factory=list)

    def skips(self, path: Path, observer: Observer) -> bool:
        """Whether `path` need not be done; the user is told why."""
        if len(self.images) == 1:
            return False
        source = self._source(path)
        if source is not None:
            # `*.png` given again finds the results of the first time, too.
            observer.note(f"{path}: is the result of {source}, so it is skipped.")
        elif not self.outputs.skips(path, observer):
            return False
        self.skipped.append(path)
        return True

    def begin(self, path: Path, observer: Observer) -> None:
        """Tell the user which of several images comes now; a single one needs no number."""
        if len(self.images) > 1:
            observer.image_started(path, self.images.index(path) + 1, len(self.images))

    @contextmanager
    def attempt(self, path: Path) -> Iterator[None]:
        """Note an error about one image of several, so that the others can still be done.

        Raises:
            Self2SelfError: of the only image, with nobody to tell, or Ctrl-C.
        """
        try:
            yield
        except InterruptedRun:
            raise
        except Self2SelfError as error:
            if len(self.images) == 1 or self.on_error is None:
                raise
            self.on_error(str(error))
            self.failed.append((path, error))

    @property
    def exit_code(self) -> int:
        """0, or that of the first image that failed."""
        return self.failed[0][1].exit_code if self.failed else 0

    def summary(self) -> str:
        """How many were written; empty for a single image, or if all were."""
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

    def _source(self, path: Path) -> Path | None:
        target = path.resolve()
        others = (image for image in self.images if image != path)
        return next((image for image in others if self.outputs.output_for(image).resolve() == target), None)
