"""OME-Zarr (0.4, 0.5) and plain zarr (formats 2 and 3), on disk or at an address that fsspec knows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.errors import InputError, typed, writing
from self2self.image_io.image import Array
from self2self.image_io.volumes.kinds import ZARR_FILES, zarr_folder
from self2self.image_io.volumes.ome_zarr import LETTERS, OmeImage
from self2self.image_io.volumes.pyramid import edges_of, means_of, source_of
from self2self.image_io.volumes.volume import (
    FileVolume,
    Selection,
    Target,
    address,
    blocks_of,
    files_sha256,
    is_remote,
    reading,
    unit_of,
)

if TYPE_CHECKING:
    import zarr


METADATA_FILES = (*ZARR_FILES, ".zattrs", ".zmetadata")
"""Files of metadata in a folder of zarr."""


class ZarrVolume(FileVolume):
    """An array of zarr: the finest level of an OME-Zarr image, or an array by itself. See `Volume`."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            InputError: it is damaged, or it is not clear which array is meant.
        """
        import zarr

        self.path = path
        self.notes: tuple[str, ...] = ()
        found = _opened(path)
        self.image: OmeImage | None = None
        if isinstance(found, zarr.Group):
            self.image, found = _image_in(found, path)
        self.array: zarr.Array[Any] = found
        self.shape, self.dtype = found.shape, found.dtype.newbyteorder("=")
        self.chunks: tuple[int, ...] | None = found.chunks
        self.axes = self.image.axes if self.image is not None else _named_axes(found)
        if self.axes is not None and len(self.axes) != len(self.shape):
            raise InputError(
                f"{path}: its metadata name the axes {self.axes}, and the array has the shape {self.shape}. Name the "
                f"array alone, with its axes: {typed('--axes ZYX')}"
            )
        self.identity = {
            "array": str(path)[len(str(zarr_folder(path))) :].strip("/"),
            "shape": list(self.shape),
            "dtype": str(found.dtype),
            "format": found.metadata.zarr_format,
            "levels": list(self.image.levels) if self.image else [],
        }

    def read(self, selection: Selection) -> Array:
        """See `Volume.read`."""
        with reading(self.path, selection, self.axes):
            return np.asarray(self.array[selection], self.dtype)

    def target(self, output: Path, work: Path, axes: str) -> Target:
        """See `Volume.target`."""
        return ZarrTarget(self, output, work, axes)


class ZarrTarget:
    """A zarr in the making. On disk it is in the folder for unfinished work; elsewhere in its place. See `Target`."""

    shared = True

    def __init__(self, source: ZarrVolume, output: Path, work: Path, axes: str) -> None:
        self._source, self._output = source, output
        self._root = address(output) if is_remote(output) else str((work / "volume.zarr").resolve())
        self.unit = unit_of(source.array.chunks, axes)
        self._levels = source.image.levels if source.image is not None else ("",)
        self.location: tuple[str, ...] = (self._root, self._levels[0])

    def create(self, block: tuple[int, ...]) -> None:
        """See `Target.create`."""
        import zarr

        with writing(self._output):
            if not is_remote(self._root):
                Path(self._root).mkdir(parents=True, exist_ok=True)
            if self._source.image is not None:
                zarr.open_group(self._root, mode="a", zarr_format=self._format)
            self._create_level(0, self._source.shape, block)

    @property
    def _format(self) -> Any:
        return self._source.array.metadata.zarr_format

    def _create_level(self, level: int, shape: tuple[int, ...], block: tuple[int, ...]) -> zarr.Array[Any]:
        """Make the array of a level, or open it if it is there already."""
        import zarr
        from zarr.errors import ContainsArrayError

        like: Any = self._source.array
        chunks = tuple(max(1, min(sizes)) for sizes in zip(self.unit, shape, strict=True))
        options: dict[str, Any] = {}
        if self._format == 3:
            # A shard is a block, so that each has one writer.
            sizes = zip(block, shape, chunks, strict=True)
            options["shards"] = tuple(-(-min(size, length) // chunk) * chunk for size, length, chunk in sizes)
            options["dimension_names"] = like.metadata.dimension_names
        else:
            separator = like.metadata.dimension_separator
            options["chunk_key_encoding"] = {"name": "v2", "separator": separator}
        attributes = {} if self._source.image is not None else dict(like.attrs)
        name = self._levels[level]
        try:
            return zarr.create_array(
                self._root,
                name=name or None,
                shape=shape,
                dtype=like.dtype,
                chunks=chunks,
                compressors=like.compressors or None,
                filters=like.filters or None,
                fill_value=like.fill_value,
                attributes=attributes,
                zarr_format=self._format,
                **options,
            )
        except ContainsArrayError:
            return zarr.open_array(self._root, path=name, mode="r+")

    def write(self, number: int, selection: Selection, values: Array) -> None:
        """See `Target.write`."""
        with writing(self._output):
            write_to(self.location, selection, values)

    def finish(self, blocks: list[Selection], about: dict[str, Any]) -> None:
        """See `Target.finish`."""
        import zarr

        with writing(self._output):
            for level in range(1, len(self._levels)):
                self._make_level(level, tuple(part.stop - part.start for part in blocks[0]))
            if not is_remote(self._root):
                about = about | {"files": self._files(Path(self._root))}
            if self._source.image is None:
                zarr.open_array(self._root, mode="r+").attrs["self2self"] = about
            else:
                group = zarr.open_group(self._root, mode="r+")
                # Last: without it, the levels are no image.
                group.attrs.put(self._source.image.for_result(about))
            if not is_remote(self._root):
                self.remove()
                Path(self._root).replace(self._output.resolve())

    def _make_level(self, level: int, block: tuple[int, ...]) -> None:
        import zarr

        like = zarr.open_array(address(self._source.path), path=self._levels[level], mode="r")
        finer = zarr.open_array(self._root, path=self._levels[level - 1], mode="r")
        coarser = self._create_level(level, like.shape, block)
        edges = edges_of(finer.shape, coarser.shape)
        for selection in blocks_of(coarser.shape, coarser.shards or coarser.chunks):
            values = np.asarray(finer[source_of(selection, edges)])
            coarser[selection] = means_of(values, selection, edges)

    def made_by(self) -> dict[str, Any] | None:
        """See `Target.made_by`."""
        if not self.exists():
            return None
        try:
            about = _opened(self._output).attrs.get("self2self")
        except InputError:
            return None
        if not isinstance(about, dict):
            return None
        # What someone has added to, or taken from, is not the result any more.
        whole = is_remote(self._output) or about.get("files") == self._files(self._output)
        return dict(about) if whole else None

    def _files(self, folder: Path) -> str:
        """Digest of the files of a result, but for those that hold the digest itself."""
        return files_sha256(folder, times=False, without=[folder / name for name in METADATA_FILES])

    def exists(self) -> bool:
        """See `Target.exists`."""
        if not is_remote(self._output):
            return self._output.exists()
        try:
            _opened(self._output)
        except InputError:
            return False
        return True

    def remove(self) -> None:
        """See `Target.remove`."""
        with writing(self._output):
            if not is_remote(self._output):
                if self._output.is_dir():
                    shutil.rmtree(self._output)
                else:
                    self._output.unlink(missing_ok=True)
                return
            from zarr.core.sync import sync
            from zarr.storage import FsspecStore

            sync(FsspecStore.from_url(address(self._output)).clear())


def write_to(location: tuple[str, ...], selection: Selection, values: Array) -> None:
    """Write a block of the array at `ZarrTarget.location`; works on any machine that sees it.

    Raises:
        OSError: it cannot be written.
    """
    import zarr

    root, name = location
    zarr.open_array(root, path=name, mode="r+")[selection] = values


def _opened(path: Path) -> Any:
    """The group or the array at `path`.

    Raises:
        InputError: there is none, or its metadata are damaged.
    """
    import zarr

    try:
        return zarr.open(address(path), mode="r")
    except Exception as error:
        # Stores raise exceptions of any class.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: cannot be opened as zarr ({reason}). Check the path, or copy it again.") from error


def _image_in(group: Any, path: Path) -> tuple[OmeImage | None, Any]:
    """The array that a group means: the finest level of its image, or its only array.

    Raises:
        InputError: it has none or several, or a level of the image is missing.
    """
    image = OmeImage.of(dict(group.attrs), path)
    if image is None:
        names = sorted(name for name, _ in group.arrays())
        if len(names) != 1:
            has = f"holds the arrays {', '.join(names[:6])}" if names else "holds no array"
            hint = f"Name one: {path}/{names[0]}" if names else "Name the group or array in it that is the image"
            raise InputError(f"{path}: {has}, and says of none that it is the image. {hint}.")
        return None, group[names[0]]
    missing = [level for level in image.levels if level not in group]
    if missing:
        raise InputError(
            f"{path}: its metadata name the level {missing[0]}, which is not there or damaged. Copy it again, or name "
            f"the array alone: {path}/{image.levels[0]}"
        )
    return image, group[image.levels[0]]


def _named_axes(array: Any) -> str | None:
    """The axes by the names of the array's dimensions (zarr 3, xarray), if each is one letter of ``TCZYX``."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    letters = "".join(str(name).upper() for name in names)
    return letters if names and len(letters) == len(names) and set(letters) <= set(LETTERS) else None
