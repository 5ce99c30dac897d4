"""Whether a volume still holds what its plan and its finished blocks were made of.

Whoever makes them reads through a `WatchedVolume`, and keeps what it read. That is read again only where sizes or times
of change of the volume's files are others (`Volume.stamp`): after they were copied again, for example.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import InputError
from self2self.image_io.image import Array
from self2self.image_io.volumes import Selection, Target, Volume
from self2self.image_io.volumes.volume import FileVolume


class WatchedVolume(FileVolume):
    """A volume that remembers what was read of it, and stays open when this is closed. See `Volume`.

    Attributes:
        reads: each part that was read, as starts and stops (``part``), and the digest of its values (``sha256``); JSON
            values.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.path, self.shape, self.dtype = volume.path, volume.shape, volume.dtype
        self.chunks, self.axes, self.identity, self.notes = volume.chunks, volume.axes, volume.identity, volume.notes
        self.reads: list[dict[str, Any]] = []

    def read(self, selection: Selection) -> Array:
        """See `Volume.read`."""
        values = self._volume.read(selection)
        read = {"part": [[part.start, part.stop] for part in selection], "sha256": values_sha256(values)}
        if read not in self.reads:
            self.reads.append(read)
        return values

    def stamp(self) -> str | None:
        """See `Volume.stamp`."""
        return self._volume.stamp()

    def target(self, output: Path, work: Path, axes: str) -> Target:
        """See `Volume.target`."""
        return self._volume.target(output, work, axes)


def values_sha256(values: Array) -> str:
    """Digest of the values of an array."""
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def all_sha256(digests: Iterable[str]) -> str:
    """Digest of a whole volume, from those of its blocks in order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def is_changed(volume: Volume, made: Mapping[str, Any], stamp: str | None) -> bool:
    """Whether a volume holds other values now than something was made of. What cannot be read now is not compared.

    Args:
        volume: the volume.
        made: what was read for it (``reads`` of a `WatchedVolume`), and the ``stamp`` of the volume at that time.
        stamp: that of the volume now; where it is the same, nothing is read.
    """
    if made["stamp"] == stamp:
        return False
    for read in made["reads"]:
        with suppress(InputError):
            values = volume.read(tuple(slice(*ends) for ends in read["part"]))
            if values_sha256(values) != read["sha256"]:
                return True
    return False
