"""Finished blocks as files, for results of which only one process may write the file: HDF5 and TIFF."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from self2self.errors import writing
from self2self.image_io.image import Array
from self2self.image_io.volumes.volume import Selection
from self2self.machine.files import atomic_path


class KeptBlocks:
    """A file in the making: each block is a file until `finish`. See `Target`."""

    shared = False
    location: tuple[str, ...] = ()

    def __init__(self, output: Path, work: Path) -> None:
        self._output, self._blocks = output, work / "blocks"

    def create(self, block: tuple[int, ...]) -> None:
        """See `Target.create`."""
        with writing(self._output):
            self._blocks.mkdir(parents=True, exist_ok=True)

    def write(self, number: int, selection: Selection, values: Array) -> None:
        """See `Target.write`."""
        with atomic_path(self._path(number)) as temporary, temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)

    def exists(self) -> bool:
        """See `Target.exists`."""
        return self._output.exists()

    def remove(self) -> None:
        """See `Target.remove`."""
        with writing(self._output):
            self._output.unlink(missing_ok=True)

    def block(self, number: int) -> Array:
        """The values of block `number`; they are read from the file when they are used."""
        values: Array = np.load(self._path(number), mmap_mode="r", allow_pickle=False)
        return values

    def remove_blocks(self) -> None:
        """Remove the files of the blocks, as the result has them now."""
        with writing(self._output):
            shutil.rmtree(self._blocks, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self._blocks / f"{number:08}.npy"
