"""HDF5: one array of a file. Only one process may write such a file, so finished blocks are files until the end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.errors import InputError
from self2self.image_io.image import Array
from self2self.image_io.volumes.kept_blocks import KeptBlocks
from self2self.image_io.volumes.ome_zarr import LETTERS
from self2self.image_io.volumes.volume import FileVolume, Selection, Target, reading, stamp_of, unit_of
from self2self.machine.files import atomic_path

if TYPE_CHECKING:
    import h5py

ABOUT = "self2self"
"""Attribute of the array that tells how it was made."""


class Hdf5Volume(FileVolume):
    """An array of an HDF5 file. See `Volume`."""

    def __init__(self, path: Path, file: Path) -> None:
        """Open it.

        Args:
            path: as the user gave it: the file, or the file and the name of an array in it.
            file: the file.

        Raises:
            InputError: it is damaged, or it is not clear which array is meant.
        """
        import h5py

        self.path, self.file = path, file
        try:
            self._open = h5py.File(file, "r")
        except OSError as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{file}: cannot be opened as HDF5 ({reason}). Copy it again.") from error
        names = _names_of_arrays(self._open)
        asked = str(path.relative_to(file)) if path != file else ""
        chosen = [name for name in names if not asked or name == asked]
        if len(chosen) != 1:
            self.close()
            raise InputError(_which_array(path, file, asked, names))
        self.name = chosen[0]
        self.others = len(names) - 1
        self.notes: tuple[str, ...] = ()
        if self.others:
            self.notes = (f"holds {self.others} other arrays, which the result leaves out",)
        array = self._open[self.name]
        self.shape, self.dtype = array.shape, array.dtype.newbyteorder("=")
        self.chunks: tuple[int, ...] | None = array.chunks
        self.axes = _named_axes(array)
        self.identity = {"array": self.name, "shape": list(self.shape), "dtype": str(array.dtype)}

    @property
    def array(self) -> h5py.Dataset:
        """The open array."""
        assert self._open is not None  # noqa: S101 - a closed volume is not read
        return self._open[self.name]

    def read(self, selection: Selection) -> Array:
        """See `Volume.read`."""
        with reading(self.path, selection, self.axes):
            return np.asarray(self.array[selection], self.dtype)

    def stamp(self) -> str | None:
        """See `Volume.stamp`."""
        others = {source.file_name for source in self.array.virtual_sources()} if self.array.is_virtual else set()
        others |= {name for name, _, _ in self.array.external or ()}
        # The names are relative to the file; "." is the file itself.
        paths = (self.file.parent / name for name in sorted(map(os.fsdecode, others)) if name != ".")
        return stamp_of(self.file, *(path for path in paths if path.exists()))

    def target(self, output: Path, work: Path, axes: str) -> Target:
        """See `Volume.target`."""
        return Hdf5Target(self, output, work, axes)


class Hdf5Target(KeptBlocks):
    """An HDF5 file in the making: each block is a file until `finish`. See `Target`."""

    def __init__(self, source: Hdf5Volume, output: Path, work: Path, axes: str) -> None:
        super().__init__(output, work)
        self._source = source
        self.unit = unit_of(source.chunks or (1,) * len(source.shape), axes)

    def finish(self, blocks: list[Selection], about: dict[str, Any]) -> None:
        """See `Target.finish`."""
        import h5py

        source = self._source.array
        options = {name: getattr(source, name) for name in ("chunks", "compression", "compression_opts", "shuffle")}
        # The temporary file has a lock of its own.
        with atomic_path(self._output) as temporary, h5py.File(temporary, "w", locking=False) as file:
            _copy_attributes(self._source.array.file, file)
            array = file.create_dataset(
                self._source.name, source.shape, source.dtype, fletcher32=source.fletcher32, **options
            )
            _copy_attributes(source, array)
            for axis, label in enumerate(source.dims):
                array.dims[axis].label = label.label
            for number, selection in enumerate(blocks):
                array[selection] = self.block(number)
            array.attrs[ABOUT] = json.dumps(about)
        self.remove_blocks()

    def made_by(self) -> dict[str, Any] | None:
        """See `Target.made_by`."""
        import h5py

        try:
            with h5py.File(self._output, "r") as file:
                about = json.loads(file[self._source.name].attrs[ABOUT])
        except (OSError, KeyError, ValueError):
            return None
        return about if isinstance(about, dict) else None


def _names_of_arrays(file: h5py.File) -> list[str]:
    """The names of all arrays with at least two axes of numbers."""
    import h5py

    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and len(item.shape or ()) >= 2 and item.dtype.kind in "iuf":
            names.append(name)

    file.visititems(visit)
    return names


def _which_array(path: Path, file: Path, asked: str, names: list[str]) -> str:
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    if not names:
        return f"{file}: holds no array with rows and columns of numbers. Choose another file."
    if asked:
        return f"{path}: {file} has no array {asked}; it has {shown}. Name one: {file}/{names[0]}"
    return f"{path}: holds several arrays, {shown}. Name one: {file}/{names[0]}"


def _named_axes(array: h5py.Dataset) -> str | None:
    """The axes by the labels of the array's dimensions, if each is one letter of ``TCZYX``."""
    letters = "".join(dimension.label.upper() for dimension in array.dims)
    return letters if len(letters) == len(array.shape) and set(letters) <= set(LETTERS) else None


def _copy_attributes(source: Any, target: Any) -> None:
    """Copy attributes but references to other arrays, which the result may not have."""
    import h5py

    for name in source.attrs:
        value = source.attrs[name]
        kind = source.attrs.get_id(name).dtype
        if h5py.check_ref_dtype(kind) is None and kind.kind != "V" and name not in (ABOUT, "DIMENSION_LIST"):
            target.attrs[name] = value
