"""Keep the passes of an image on disk while they run, so that the same command goes on with the same bits.

============================  ===========================================================================
``KEY-HxW-00003.npz``         tile 3, finished: its mean, its standard deviation, and how it was made
``KEY-HxW-00003.sums.npz``    sums of the passes of tile 3 so far; removed when the tile is finished
============================  ===========================================================================

``KEY`` identifies everything that decides the bits, ``HxW`` is the size of the tiles. Files of other keys are removed.
An image whose passes are over before the first file is due leaves no trace on the disk.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import OutputError, ResourceError, writing
from self2self.machine.files import atomic_path, remove_folder, remove_leftovers
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.ensemble.host_loop import PassesResult
from self2self.runtime.ensemble.moments import KeptSums, Moments
from self2self.runtime.ensemble.tiles import TilePlan

INTERVAL_SECONDS = 20.0
"""Time between two files of sums. A run of the engine and the write add to it; 30 s are promised."""
LARGEST_WRITE_SHARE = 0.05
"""Largest share of the time that writing sums takes: the sums of a very large image take seconds, so they are kept less
often."""
_KEY_LETTERS = 16


@dataclass(slots=True)
class FinishedTile:
    """The passes over a tile that an earlier run has finished; a `PassSums`."""

    count: int
    tile: int
    tiles: int
    _mean: FloatArray
    _deviation: FloatArray | None
    _standard_error: float

    def mean(self) -> FloatArray:
        """As `PassSums.mean`."""
        return self._mean

    def standard_deviation(self) -> FloatArray:
        """As `PassSums.standard_deviation`; zero where no deviation was asked for."""
        return np.zeros_like(self._mean) if self._deviation is None else self._deviation

    def standard_error(self) -> float:
        """As `PassSums.standard_error`."""
        return self._standard_error


@dataclass(slots=True)
class KeptPasses:
    """The passes of one image in a folder.

    Attributes:
        folder: made with the first file; its parent folder exists.
        job: identifies the image and the options of the passes.
        note: gets what the user should know.
        clock: returns seconds.
    """

    folder: Path
    job: str
    note: Callable[[str], None] = lambda text: None
    clock: Callable[[], float] = time.monotonic
    _prefix: str = field(default="", init=False)
    _tiles: str = field(default="", init=False)
    _due: float = field(default=0.0, init=False)
    _tiles_due: float = field(default=0.0, init=False)
    _fails: bool = field(default=False, init=False)

    def begin(self, identity: Mapping[str, Any]) -> int | None:
        """Find the passes of an earlier run, and remove those that were made with another `identity`.

        Args:
            identity: what decides the bits besides `job`; JSON values.

        Returns:
            the longer side of the tiles that the earlier run made; None if there are none.
        """
        text = json.dumps([self.job, identity], sort_keys=True)
        self._prefix = hashlib.sha256(text.encode()).hexdigest()[:_KEY_LETTERS]
        remove_leftovers(self.folder)
        self._remove_others(self._prefix)
        sizes = {path.name.split("-")[1] for path in self.folder.glob(f"{self._prefix}-*x*-*.npz")}
        self._due = self.clock() + INTERVAL_SECONDS
        # Whoever goes on has lost the tiles of the first seconds once already.
        self._tiles_due = self.clock() if sizes else self._due
        return max((int(side) for size in sizes for side in size.split("x")), default=None)

    def use_tiles(self, plan: TilePlan) -> None:
        """Keep tiles of `plan` from now on; those of another size are removed."""
        self._tiles = f"{self._prefix}-{plan.rows.tile}x{plan.columns.tile}-"
        self._remove_others(self._tiles)

    def finished_tile(self, tile: int, tiles: int) -> tuple[PassesResult, str] | None:
        """The passes over a tile, from 0, that an earlier run has finished, and their provider; None if it has not."""
        found = self._read(self._tile_path(tile))
        if found is None:
            return None
        values, arrays = found
        moments = FinishedTile(
            values["count"], tile, tiles, arrays["mean"], arrays.get("deviation"), values["standard_error"]
        )
        return PassesResult(moments, values["batch"], **values["seconds"]), values["provider"]

    def keep_tile(self, tile: int, result: PassesResult, provider: str, *, uncertainty: bool) -> None:
        """Keep a finished tile, unless the passes began only just now.

        Args:
            tile: number of the tile, from 0.
            result: its passes.
            provider: what computed them.
            uncertainty: whether the standard deviation will be needed.
        """
        if self.clock() < self._tiles_due:
            return
        moments = result.moments
        arrays = {"mean": moments.mean()}
        if uncertainty:
            arrays["deviation"] = moments.standard_deviation()
        values = {
            "count": moments.count,
            "provider": provider,
            "standard_error": moments.standard_error(),
            "batch": result.batch,
            "seconds": {
                "mask_seconds": result.mask_seconds,
                "pass_seconds": result.pass_seconds,
                "reduce_seconds": result.reduce_seconds,
            },
        }
        if self._write(self._tile_path(tile), values, arrays):
            with suppress(OSError):
                self._sums_path(tile).unlink(missing_ok=True)
        self._due = self.clock() + INTERVAL_SECONDS

    def sums_of(self, tile: int, tiles: int) -> KeptSums:
        """Where the loop over the passes of a tile, from 0, keeps its sums."""
        return _SumsOfTile(self, tile, tiles)

    def remove(self) -> None:
        """Remove everything, once the result is written."""
        remove_kept(self.folder)

    def _tile_path(self, tile: int) -> Path:
        return self.folder / f"{self._tiles}{tile:05}.npz"

    def _sums_path(self, tile: int) -> Path:
        return self.folder / f"{self._tiles}{tile:05}.sums.npz"

    def _remove_others(self, prefix: str) -> None:
        for path in self.folder.glob("*.npz"):
            if not path.name.startswith(prefix):
                with suppress(OSError):
                    path.unlink()

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """The values and the arrays of a file; None if there is none, or it is damaged."""
        try:
            # NumPy leaves a damaged file open if it has opened it itself.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return json.loads(arrays.pop("values").tobytes()), arrays
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _write(self, path: Path, values: Mapping[str, Any], arrays: dict[str, Any]) -> bool:
        """Write a file; where that fails, the passes go on without, and the user learns of it once."""
        if self._fails:
            return False
        try:
            with writing(self.folder):
                self.folder.mkdir(exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **{"values": np.frombuffer(json.dumps(values).encode(), np.uint8)} | arrays)
        except (OutputError, ResourceError) as error:
            self._fails = True
            self.note(f"the passes so far cannot be kept for the case of an interruption: {error}")
            return False
        return True


@dataclass(frozen=True, slots=True)
class _SumsOfTile:
    """The `KeptSums` of one tile."""

    _kept: KeptPasses
    _tile: int
    _tiles: int

    def restored(self) -> tuple[Moments, dict[str, float]] | None:
        found = self._kept._read(self._kept._sums_path(self._tile))
        if found is None:
            return None
        values, arrays = found
        moments = Moments.restored(values["moments"], arrays, self._tile, self._tiles)
        of_tile = f" of tile {self._tile + 1} of {self._tiles}" if self._tiles > 1 else ""
        self._kept.note(f"going on after pass {moments.count}{of_tile}.")
        return moments, values["seconds"]

    def due(self) -> bool:
        return self._kept.clock() >= self._kept._due

    def keep(self, moments: Moments, seconds: Mapping[str, float]) -> None:
        kept = self._kept
        start = kept.clock()
        numbers, arrays = moments.stored()
        kept._write(kept._sums_path(self._tile), {"moments": numbers, "seconds": dict(seconds)}, arrays)
        end = kept.clock()
        kept._due = end + max(INTERVAL_SECONDS, (end - start) / LARGEST_WRITE_SHARE)
        # From now on there is something to go on from, so nothing that is finished should be lost.
        kept._tiles_due = start


def remove_kept(folder: Path) -> None:
    """Remove a folder of `KeptPasses`, if it exists, as far as that works."""
    with suppress(OSError):
        remove_folder(folder)
        remove_leftovers(folder.parent)
