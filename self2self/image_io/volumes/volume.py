"""What all kinds of volumes have in common: a noisy array that is read by blocks, and the place of its result."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from self2self.errors import EngineUnavailableError, InputError
from self2self.image_io.image import Array

Selection = tuple[slice, ...]
"""A block of an array: a slice with start and stop for each axis."""

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+):/+(?=[^/])", re.IGNORECASE)


class Volume(Protocol):
    """An open array. Use it as a context manager.

    Attributes:
        path: the file, folder or address, with the name of the array in it, as the user gave it.
        shape: of the array.
        dtype: of the array, in native byte order.
        chunks: shape of the parts in which the array is stored; None if it is stored in one piece.
        axes: a letter of ``TCZYX`` for each axis, as the file names them; None if it does not.
        identity: its metadata that tell it from other arrays, as JSON values.
        notes: what the result will lack, one line each.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None
    axes: str | None
    identity: dict[str, Any]
    notes: tuple[str, ...]

    def read(self, selection: Selection) -> Array:
        """The values of a block.

        Raises:
            InputError: it cannot be read; names the block.
        """

    def stamp(self) -> str | None:
        """Changes whenever what is stored may have changed; None if that cannot be told, as of an address.

        Raises:
            InputError: the files cannot be listed.
        """

    def target(self, output: Path, work: Path, axes: str) -> Target:
        """The result of this volume, in the same layout, with the metadata of the source.

        Args:
            output: where the result goes.
            work: local folder for what is not finished, beside `output` where that is local.
            axes: a letter for each axis, as `axes` of the volume or as the user gave them.
        """

    def close(self) -> None:
        """Close the files; safe to call twice."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class FileVolume:
    """What all kinds of volumes share: the open file, where there is one, is closed in the end."""

    path: Path
    _open: Any = None

    def stamp(self) -> str | None:
        """See `Volume.stamp`."""
        return stamp_of(self.path)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        file, self._open = self._open, None
        if file is not None:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Target(Protocol):
    """A result in the making.

    Attributes:
        unit: shape of the parts of the array that one writer at a time may write; blocks are made of whole units.
        shared: whether any process that knows `location` may write blocks (`write_to`), on any machine that sees it.
        location: what `write_to` of the kind needs; it can be pickled.
    """

    unit: tuple[int, ...]
    shared: bool
    location: tuple[str, ...]

    def create(self, block: tuple[int, ...]) -> None:
        """Make the empty arrays, whose blocks have the shape `block`; those that are there already stay.

        Raises:
            OutputError, ResourceError: they cannot be written.
        """

    def write(self, number: int, selection: Selection, values: Array) -> None:
        """Write block `number`, from 0, whole or not at all.

        Raises:
            OutputError, ResourceError: it cannot be written.
        """

    def finish(self, blocks: list[Selection], about: dict[str, Any]) -> None:
        """Make the levels and the metadata, and put the result in its place, where it appears whole.

        Args:
            blocks: the selections of all blocks, which are written.
            about: what is kept in the result about how it was made; JSON values.

        Raises:
            OutputError, ResourceError: it cannot be written.
        """

    def made_by(self) -> dict[str, Any] | None:
        """The `about` of a finished result that is in its place; None if there is none."""

    def exists(self) -> bool:
        """Whether there is anything in its place."""

    def remove(self) -> None:
        """Remove what is in its place."""


@dataclass(frozen=True, slots=True)
class Needed:
    """A package that reads a kind of volumes, and the extra that installs it."""

    package: str
    extra: str

    def check(self, path: Path) -> None:
        """Refuse the volume at `path` where the package is missing.

        Raises:
            EngineUnavailableError: says what to type.
        """
        from importlib.util import find_spec

        if find_spec(self.package) is None:
            raise EngineUnavailableError(
                f"{path}: reading it needs the package {self.package}. Install it: pip install "
                f"'self2self[{self.extra}]'"
            )


LARGEST_CHUNK = {"T": 1, "C": 1, "Z": 32, "Y": 1024, "X": 1024}
"""Largest part of a result along each axis. A block is of one time and one channel, and is held in memory."""
SMALLER_CHUNK = {"T": 1, "C": 1, "Z": 32, "Y": 512, "X": 512}
"""Parts of a result where those of the source are larger."""


def unit_of(chunks: tuple[int, ...], axes: str) -> tuple[int, ...]:
    """The shape of the parts of a result whose source has the parts `chunks`."""
    return tuple(
        SMALLER_CHUNK[letter] if chunk > LARGEST_CHUNK.get(letter, chunk) else chunk
        for letter, chunk in zip(axes, chunks, strict=True)
    )


def address(path: Path | str) -> str:
    """The text of a path, with the two slashes of an address (``s3://bucket/name``) that `Path` takes for one."""
    return _SCHEME.sub(r"\1://", str(path))


def is_remote(path: Path | str) -> bool:
    """Whether a path is an address such as ``s3://bucket/name``, and not of this file system."""
    return _SCHEME.match(str(path)) is not None


def place(selection: Selection, axes: str) -> str:
    """A block in words, such as "z 3-5, y 0-511", counted from 0; axes of one element are named by its index."""
    parts = [
        f"{letter.lower()} {part.start}" + (f"-{part.stop - 1}" if part.stop - part.start > 1 else "")
        for letter, part in zip(axes, selection, strict=True)
    ]
    return ", ".join(parts)


def stamp_of(*paths: Path) -> str | None:
    """Digest of names, sizes and times of change of files, and of all files in folders; None for an address.

    Raises:
        InputError: they cannot be listed.
    """
    return None if any(map(is_remote, paths)) else files_sha256(*paths)


def files_sha256(*paths: Path, times: bool = True, without: Container[Path] = ()) -> str:
    """Digest of the names and sizes of files, and of all files in folders; links count as what they lead to.

    Args:
        paths: files and folders.
        times: whether their times of change count, too.
        without: files that do not count.

    Raises:
        InputError: they cannot be listed.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            for file in sorted(file for file in _files_in(path) if file not in without):
                found = file.stat()
                values = (file.relative_to(path), found.st_size, found.st_mtime_ns if times else "")
                digest.update("\0".join(map(str, values)).encode(errors="replace"))
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"{path}: cannot be read ({reason}). Check the path and the permissions.") from error
    return digest.hexdigest()


def _files_in(path: Path) -> Iterator[Path]:
    """The files in a folder and its folders; a file itself."""
    if not path.is_dir():
        yield path
        return
    seen: set[str] = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        seen.add(os.path.realpath(folder))
        # A link that leads back would never end.
        folders[:] = [name for name in folders if os.path.realpath(Path(folder) / name) not in seen]
        yield from (Path(folder) / name for name in names)


@contextmanager
def reading(path: Path, selection: Selection, axes: str | None) -> Iterator[None]:
    """Turn any error of a library on damaged or missing data into one line that names the block.

    Raises:
        InputError: the block cannot be read.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # Stores and codecs raise exceptions of any class.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        letters = axes or "".join(f"[{number}]" for number in range(len(selection)))
        names = place(selection, letters) if axes else str([(part.start, part.stop) for part in selection])
        raise InputError(
            f"{path}: what is stored at {names} cannot be read ({reason}). Copy it again; the same command then "
            "does the rest"
        ) from error


def blocks_of(shape: tuple[int, ...], block: tuple[int, ...]) -> Iterator[Selection]:
    """Cut an array into blocks of the shape `block`; those at the ends may be smaller."""
    counts = [-(-length // size) for length, size in zip(shape, block, strict=True)]
    for index in np.ndindex(*counts):
        yield tuple(
            slice(number * size, min((number + 1) * size, length))
            for number, size, length in zip(index, block, shape, strict=True)
        )
