"""Pages of a stack that are done, in a hidden folder beside the output, so that a killed run can go on.

======================  ==========================================================================
``stack.json``          source, model and settings: what the pages were made of
``00003.npy``           page 3 as it will be stored, without alpha
``00003.std.npy``       its standard deviation, if that was asked for
``00003.json``          its figures; written last, so that a page with figures is whole
``deviations.written``  there once the stack of standard deviations is in its place
======================  ==========================================================================

Every file is written to a temporary name and renamed. The folder goes when the output is in its place.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import FileFormatError, UsageError, writing
from self2self.image_io.image import Array
from self2self.machine.files import atomic_write

SETTINGS, WRITTEN = "stack.json", "deviations.written"
PAGE_CACHE_FORMAT = 2


@dataclass(frozen=True, slots=True)
class PageRecord:
    """How a page was made; levels in 8-bit grey levels.

    Attributes:
        page: from 1.
        image_sha256: `image_io.image_hash` of the page.
        seed: of its masks.
        engine, provider, tile, fallback: as in `EnsembleResult`.
        passes: of the ensemble.
        standard_error: of their mean; None for one pass.
        range: the values of the page that were 0 and 1 to the network, 255 grey levels apart.
        sigma: noise of the page, estimated from what was removed.
        residual_mean, residual_deviation: of what was removed.
        correlated: whether neighbours were correlated in what was removed.
        seconds: from reading to writing, without a fit.
    """

    page: int
    image_sha256: str
    seed: int
    engine: str
    provider: str
    tile: list[int] | None
    fallback: str
    passes: int
    standard_error: float | None
    range: list[float]
    sigma: float
    residual_mean: float
    residual_deviation: float
    correlated: bool
    seconds: float


class PageCache:
    """The finished pages of one output."""

    def __init__(self, output: Path) -> None:
        self.output = output
        target = output.resolve()
        self.folder = target.with_name(f".{target.name}.parts")

    def open(self, settings: dict[str, Any], *, force: bool) -> bool:
        """Go on with pages that were made with the same `settings`, or make an empty folder; whether it goes on.

        Args:
            settings: all that decides about the bits of a page; JSON values.
            force: throw away pages that were made with others.

        Raises:
            UsageError: there are pages with other settings.
            OutputError, ResourceError: the folder cannot be made.
        """
        path = self.folder / SETTINGS
        settings = {"format": PAGE_CACHE_FORMAT, **settings}
        if path.is_file():
            stored = self._json(path)
            other = [key for key in {**settings, **stored} if stored.get(key) != settings.get(key)]
            if not other:
                return True
            if not force:
                raise UsageError(
                    f"{self.output}: was begun with other settings ({', '.join(other)}). Give the same command to go "
                    f"on, start anew with --force, or choose another place with -o."
                )
        elif self.folder.is_dir() and any(self.folder.iterdir()) and not force:
            raise UsageError(f"{self.folder}: is in the way and holds no pages. Remove it, or start anew with --force.")
        self.remove()
        with writing(self.folder):
            self.folder.mkdir()
        atomic_write(path, json.dumps(settings, indent=2).encode())
        return False

    def record(self, index: int) -> PageRecord | None:
        """The figures of page `index`, from 0; None if it is not done.

        Raises:
            FileFormatError: they were damaged.
        """
        path = self._path(index, ".json")
        if not path.is_file():
            return None
        try:
            return PageRecord(**self._json(path))
        except TypeError as error:
            raise self._damaged(path) from error

    def keep(self, figures: PageRecord, values: Array, deviation: Array | None) -> None:
        """Write a page that is done: its stored values and, if asked for, standard deviations, (H, W, C) each.

        Raises:
            OutputError, ResourceError: it cannot be written.
        """
        index = figures.page - 1
        self._save(self._path(index, ".npy"), values)
        if deviation is not None:
            self._save(self._path(index, ".std.npy"), deviation)
        atomic_write(self._path(index, ".json"), json.dumps(asdict(figures)).encode())

    def pages(self, count: int, *, deviation: bool = False) -> Iterator[Array]:
        """The values of all pages, or their standard deviations, one after the other.

        Raises:
            FileFormatError: one is missing or damaged.
        """
        for index in range(count):
            path = self._path(index, ".std.npy" if deviation else ".npy")
            try:
                yield np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise self._damaged(path) from error

    @property
    def deviations_written(self) -> bool:
        """Whether the stack of standard deviations is in its place."""
        return (self.folder / WRITTEN).is_file()

    def mark_deviations_written(self) -> None:
        """Remember that."""
        atomic_write(self.folder / WRITTEN, b"")

    def remove(self) -> None:
        """Remove the folder, if it is there."""
        if self.folder.is_dir():
            with writing(self.folder):
                shutil.rmtree(self.folder)

    def _path(self, index: int, suffix: str) -> Path:
        return self.folder / f"{index + 1:05}{suffix}"

    def _save(self, path: Path, values: Array) -> None:
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        atomic_write(path, buffer.getbuffer())

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(path) from error
        if not isinstance(values, dict):
            raise self._damaged(path)
        return values

    def _damaged(self, path: Path) -> FileFormatError:
        return FileFormatError(f"{path}: is damaged. Remove {self.folder} to start anew.")


def file_hash(path: Path) -> str:
    """SHA-256 in hex of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
