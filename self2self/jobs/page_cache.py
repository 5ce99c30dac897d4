"""Keep the finished pages of a stack in a hidden folder beside the output, so that a killed run can continue.

======================  ==========================================================================
``stack.json``          source, model and settings of the pages
``00003.npy``           page 3 as it will be stored, without alpha
``00003.std.npy``       standard deviation of page 3, if the user asked for it
``00003.json``          record of page 3; written last, so that a page with a record is whole
``deviations.written``  exists as soon as the stack of standard deviations is written
``passes``              passes of the page in progress (`runtime.ensemble.kept_passes`)
======================  ==========================================================================

Every file is written to a temporary name and renamed. The folder is removed when the output is written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import FileFormatError, UsageError, typed, writing
from self2self.image_io.image import Array
from self2self.machine.files import atomic_write, hidden_sibling, holds_only_leftovers, remove_folder, remove_leftovers
from self2self.runtime.ensemble.kept_passes import KeptPasses

SETTINGS_FILE, DEVIATIONS_WRITTEN_FILE = "stack.json", "deviations.written"
PAGE_CACHE_FORMAT = 2


@dataclass(frozen=True, slots=True)
class PageRecord:
    """Record of how a page was made. Sigma, standard error and residual are in 8-bit grey levels.

    Attributes:
        page: number of the page, from 1.
        image_sha256: `image_io.image_hash` of the page.
        seed: seed of the masks.
        engine, provider, tile, fallback: as in `EnsembleResult`.
        passes: number of passes; 0 for a page that was copied, because it holds nothing to denoise.
        standard_error: standard error of the mean over the passes; None for one pass.
        range: the two values of the page that map to 0 and 1, which are 255 grey levels apart.
        sigma: standard deviation of the noise, estimated from what was removed.
        residual_mean, residual_deviation: mean and standard deviation of what was removed.
        correlated: whether neighbouring pixels are correlated in what was removed.
        seconds: time from after reading to before storing, without the fit.
        plain: whether a single pass without dropout made it; it has no standard error.
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
    plain: bool = False


class PageCache:
    """The finished pages of one output."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = hidden_sibling(output.resolve(), ".parts")

    def open(self, settings: dict[str, Any], *, force: bool) -> bool:
        """Open the cache: keep pages that were made with the same `settings`, or create an empty folder.

        Args:
            settings: everything that decides the bits of a page; JSON values.
            force: whether to remove pages that were made with other settings.

        Returns:
            Whether the folder of an earlier run was kept.

        Raises:
            UsageError: there are pages with other settings, or other files.
            OutputError, ResourceError: the folder cannot be created.
        """
        path = self.folder / SETTINGS_FILE
        settings = {"format": PAGE_CACHE_FORMAT, **settings}
        if path.is_file():
            stored = self._json(path)
            changed = [key for key in {**settings, **stored} if stored.get(key) != settings.get(key)]
            if not changed:
                remove_leftovers(self.folder)
                return True
            if not force:
                raise UsageError(
                    f"{self.output}: was begun with other settings ({', '.join(changed)}). Give the same command to go "
                    f"on, start anew with {typed('--force')}, or choose another place with {typed('-o')}."
                )
        elif self.folder.is_dir() and not holds_only_leftovers(self.folder) and not force:
            raise UsageError(
                f"{self.folder}: is in the way and holds no pages. Remove it, or start anew with {typed('--force')}."
            )
        self.remove()
        with writing(self.folder):
            self.folder.mkdir()
        atomic_write(path, json.dumps(settings, indent=2).encode())
        return False

    def record(self, index: int) -> PageRecord | None:
        """Read the record of page `index`, from 0; None if the page is not finished.

        Raises:
            FileFormatError: the record is damaged.
        """
        path = self._path(index, ".json")
        if not path.is_file():
            return None
        try:
            return PageRecord(**self._json(path))
        except TypeError as error:
            raise self._damaged(path) from error

    def keep(self, record: PageRecord, values: Array, deviation: Array | None) -> None:
        """Write a finished page: its stored values and, if requested, its standard deviations, (H, W, C) each.

        Raises:
            OutputError, ResourceError: the page cannot be written.
        """
        index = record.page - 1
        self._save(self._path(index, ".npy"), values)
        if deviation is not None:
            self._save(self._path(index, ".std.npy"), deviation)
        atomic_write(self._path(index, ".json"), json.dumps(asdict(record)).encode())

    def kept_passes(self, index: int, note: Callable[[str], None]) -> KeptPasses:
        """Where the passes of page `index`, from 0, are kept until the page is."""
        settings = (self.folder / SETTINGS_FILE).read_text(encoding="utf-8")
        return KeptPasses(self.folder / "passes", f"page {index + 1} of {settings}", note)

    def pages(self, count: int, *, deviation: bool = False) -> Iterator[Array]:
        """Yield the values of all pages, or their standard deviations, one after the other.

        Raises:
            FileFormatError: a page is missing or damaged.
        """
        for index in range(count):
            path = self._path(index, ".std.npy" if deviation else ".npy")
            try:
                yield np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise self._damaged(path) from error

    @property
    def deviations_written(self) -> bool:
        """Whether the stack of standard deviations is written."""
        return (self.folder / DEVIATIONS_WRITTEN_FILE).is_file()

    def mark_deviations_written(self) -> None:
        """Record that the stack of standard deviations is written."""
        atomic_write(self.folder / DEVIATIONS_WRITTEN_FILE, b"")

    def remove(self) -> None:
        """Remove the folder, if it exists."""
        if self.folder.is_dir():
            with writing(self.folder):
                remove_folder(self.folder)

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
