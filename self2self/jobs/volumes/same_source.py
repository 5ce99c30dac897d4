"""Whether a volume still holds what its finished blocks were made of.

All files of a volume are read again only where their sizes or times of change are others (`Volume.stamp`): after they
were copied again, for example.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from self2self.image_io.image import Array
from self2self.image_io.volumes import Volume
from self2self.jobs.volumes.blocks import Block
from self2self.jobs.volumes.layout import VolumeLayout


def pages_sha256(pages: Iterable[Array]) -> str:
    """Digest of the values of pages, each (H, W, C)."""
    digest = hashlib.sha256()
    for page in pages:
        digest.update(np.ascontiguousarray(page).data)
    return digest.hexdigest()


def block_sha256(volume: Volume, layout: VolumeLayout, block: Block) -> str:
    """Digest of what the volume holds at a block.

    Raises:
        InputError: it cannot be read.
    """
    return pages_sha256(layout.as_pages(volume.read(block.selection(layout))))


def all_sha256(digests: Iterable[str]) -> str:
    """Digest of a whole volume, from those of its blocks in order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def changed_blocks(
    volume: Volume,
    layout: VolumeLayout,
    blocks: Iterable[Block],
    records: Mapping[int, Mapping[str, Any]],
    stamp: str | None,
) -> list[Block]:
    """The finished blocks that were made of other values than the volume holds now.

    Args:
        volume: the open volume.
        layout: of the volume.
        blocks: all of its blocks.
        records: of the finished ones, by their numbers, with the digest (``source``) and the `stamp` of their source.
        stamp: of the volume now; blocks of the same one are not read.

    Raises:
        InputError: a block cannot be read.
    """
    made = [block for block in blocks if block.number in records and records[block.number]["stamp"] != stamp]
    return [block for block in made if block_sha256(volume, layout, block) != records[block.number]["source"]]
