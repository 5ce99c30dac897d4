"""Dropout masks as a pure function: (seed, pass index, shapes) to booleans.

Nothing here depends on batch size, order, thread count or machine: pass 17 of seed 0 has the
same masks wherever and whenever it is made. One random byte decides one element
(``byte < keep_count``), because drawing 32-bit uniforms costs five times as much, and the masks
of one pass at 256x256 have 21 million elements.

Balanced masks share the bytes of ten passes: pass t of a block adds t/10 of a turn to every byte,
modulo 256, before it is compared. Each pass alone has the same distribution as an independent one,
and different elements stay independent, but within a block every element is dropped equally often
(to one pass; exactly where ten drop rates are a whole number), so what single elements add to the
ensemble's variance cancels. This is systematic sampling, a form of the antithetic variates of
Hammersley and Morton (1956).

The bytes are those of numpy's SFC64 seeded through SeedSequence; numpy guarantees both streams
for all versions (NEP 19). Each piece of a mask has a stream of its own, so that several threads can
make a pass's masks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from self2self.contract import KEEP_LEVELS, MaskSpec
from self2self.errors import UsageError
from self2self.system import compute_threads
from self2self.workers import Workers

BoolArray = NDArray[np.bool_]

BLOCK = 10
"""Passes that share balanced masks; drop rates of 0.1, 0.2, 0.4, 0.7 and 0.9 are whole tenths.

On the fast network at drop rates of 0.2 and 0.1, the mean of a block of 5, 10 and 16 passes has 0.39, 0.16 and
0.31 of the variance that independent passes give (docs/experiments.md).
"""

PIECE = 2**20
"""Elements that share a random stream: of one mask, in the order of its memory. So many that seeding their stream, 14
microseconds, is a small part of the time."""
_AT_ONCE = 2**18
"""Random bytes that are drawn at a time where none are kept: so few that they are compared while they are in the cache,
which saves a fifth of the time against a whole piece. Whole words of the stream, so that it does not depend on this."""
_KEPT = 2**25
"""Random bytes that are kept for the other passes of a block, at most; drawing them takes four times as long as turning
and comparing them."""
_WORTH_SHARING = 4 * PIECE
"""Elements from which on several threads gain more than it costs to wake them."""


class Stream(IntEnum):
    """Independent random streams of one seed, so that a pass never repeats a training step."""

    ENSEMBLE = 0
    FIT = 1
    CROP = 2
    DEVICE = 3
    NOISE = 4


def check_seed(seed: int) -> None:
    """Refuse seeds that do not fit into one word of a SeedSequence, where streams could meet.

    Raises:
        UsageError: `seed` is not in 0 to 2**32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed is {seed}; expected 0 to {2**32 - 1}.")


def generator(seed: int, index: int, stream: Stream) -> np.random.Generator:
    """Random generator for step or pass `index` of `seed`, independent of all others."""
    return np.random.Generator(_bit_generator(seed, stream, index))


def _bit_generator(seed: int, stream: Stream, *words: int) -> np.random.SFC64:
    return np.random.SFC64(np.random.SeedSequence((seed, int(stream), *words)))


class MaskMaker:
    """Makes the masks of consecutive passes into arrays that it reuses.

    Args:
        specs: the masks; the place in the list is part of what a mask's random bytes depend on.
        axes: sizes of the data axes, for example ``{"H": 64, "W": 96}``.
        seed: non-negative seed of all passes.
        stream: which of the seed's independent streams.
        balanced: whether each `BLOCK` passes drop every element equally often.
        channels_last: whether the channels of a pixel, not the pixels of a channel, are side by side in memory. Random
            bytes follow the memory, so the masks are others.

    Attributes:
        place: of the tile that the masks are for, from `tiling.place_of`; tiles at other places have
            independent masks. May be set between two calls of `make`.
    """

    def __init__(
        self,
        specs: Sequence[MaskSpec],
        axes: Mapping[str, int],
        seed: int,
        stream: Stream = Stream.ENSEMBLE,
        *,
        balanced: bool = False,
        channels_last: bool = False,
    ) -> None:
        self.specs = tuple(specs)
        self.seed = seed
        self.stream = stream
        self.block = BLOCK if balanced else 1
        """Passes whose masks depend on each other."""
        self.place = 0
        self._channels_last = channels_last
        self._shapes = [self._in_memory(spec.shape(axes)) for spec in self.specs]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._pieces = [(number, start) for number, size in enumerate(self._sizes) for start in range(0, size, PIECE)]
        self._buffers: list[BoolArray] = []
        self._keeps = self.block > 1 and sum(self._sizes) <= _KEPT
        self._drawn: dict[tuple[int, int], tuple[tuple[int, int], NDArray[np.uint8]]] = {}
        """For each piece the block and the place that its bytes were drawn for, and the bytes."""
        self._threads = compute_threads()
        self._workers = Workers(self._threads)

    def make(self, first_pass: int, count: int) -> dict[str, BoolArray]:
        """Masks of passes `first_pass` to `first_pass + count - 1`.

        Returns:
            name to bool array [count, ...shape of the mask], C-contiguous where channels are not last. The arrays
            are views of buffers that the next call overwrites.
        """
        if not self._buffers or self._buffers[0].shape[0] < count:
            self._buffers = [np.empty((count, *shape), np.bool_) for shape in self._shapes]
        jobs = [(offset, *piece) for offset in range(count) for piece in self._pieces]
        shares = min(self._threads, len(jobs)) if count * sum(self._sizes) >= _WORTH_SHARING else 1

        def work(share: int) -> None:
            for offset, number, start in jobs[share::shares]:
                self._fill(first_pass + offset, offset, number, start)

        self._workers.run(work, shares)
        made = (buffer[:count] for buffer in self._buffers)
        if self._channels_last:
            made = (np.moveaxis(mask, -1, 1) for mask in made)
        return {spec.name: mask for spec, mask in zip(self.specs, made, strict=True)}

    def _in_memory(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[1:], *shape[:1]) if self._channels_last else shape

    def _fill(self, index: int, row: int, number: int, first: int) -> None:
        """Fill one piece, from element `first` on, of one mask of one pass."""
        spec = self.specs[number]
        # A slice, because an index into a mask without dimensions would give a copy.
        target = self._buffers[number][row : row + 1].reshape(-1)[first : first + PIECE]
        if spec.keep_count == KEEP_LEVELS:
            target.fill(True)
            return
        block, turn = divmod(index, self.block)
        shift = np.uint8(turn * KEEP_LEVELS // self.block)
        done = 0
        for drawn in self._random_bytes(block, number, first, target.size):
            part = target[done : done + drawn.size]
            done += drawn.size
            # The mask's own memory, which is written next anyhow, takes the turned bytes; those that are kept stay.
            turned = np.add(drawn, shift, out=part.view(np.uint8)) if turn else drawn
            np.less(turned, np.uint8(spec.keep_count), out=part)

    def _random_bytes(self, block: int, number: int, first: int, count: int) -> Iterator[NDArray[np.uint8]]:
        """The `count` bytes of the piece from element `first` on of one mask, for all passes of `block`, in parts."""
        drawn_for, kept = self._drawn.get((number, first), (None, None))
        if kept is not None and drawn_for == (block, self.place):
            yield kept
            return
        bits = _bit_generator(self.seed, self.stream, block, self.place, number, first // PIECE)
        at_once = count if self._keeps else _AT_ONCE
        for start in range(0, count, at_once):
            drawn = _bytes_of(bits, min(at_once, count - start))
            if self._keeps:
                # Another thread may be at another block; each goes on with what it has in hand.
                self._drawn[number, first] = (block, self.place), drawn
            yield drawn


def _bytes_of(bits: np.random.SFC64, count: int) -> NDArray[np.uint8]:
    """The next `count` bytes of a stream, and what is left of the last word is lost."""
    words = bits.random_raw(-(-count // 8))
    if sys.byteorder == "big":
        words = words.byteswap()
    return words.view(np.uint8)[:count]
