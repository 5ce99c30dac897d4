"""Dropout masks as a pure function: (seed, pass index, shapes) to booleans.

Nothing here depends on batch size, order, thread count or machine: pass 17 of seed 0 has the
same masks wherever and whenever it is made. One random byte decides one element
(``byte < keep_count``), because drawing 32-bit uniforms costs five times as much, and the masks
of one pass at 256x256 have 21 million elements.

Drawing bytes takes longer than all else, so passes may share them (`Draws`). Each pass alone always has the same
distribution as one with bytes of its own.

Balanced masks share the bytes of ten passes: pass t of a block adds t/10 of a turn to every byte,
modulo 256, before it is compared. Different elements stay independent, but within a block every element
is dropped equally often (to one pass; exactly where ten drop rates are a whole number), so what single
elements add to the ensemble's variance cancels. This is systematic sampling, a form of the antithetic
variates of Hammersley and Morton (1956).

Paired masks share the bytes of 127 passes: pass t takes the exclusive or of these and of a pad, from its t-th offset
on. Two passes differ by the exclusive or of two parts of the pad, which is as random as the pad itself and tells
nothing to who has seen one of them. So any two passes are independent, and the variance of the mean, which depends on
pairs alone, is that of independent passes (two-point sampling, Chor and Goldreich 1989). No two pairs of offsets
are equally far apart (Erdos and Turan 1941): what pairs of passes have in common by chance would add up where they are.
All pieces of a mask have one pad, which then stays in the cache: each piece of a pass is independent of all of another
pass, but products of elements that lie whole pieces apart are not.

The bytes are those of numpy's SFC64 seeded through SeedSequence; numpy guarantees both streams
for all versions (NEP 19). Each piece of a mask has a stream of its own, so that several threads can
make a pass's masks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np
from numpy.typing import NDArray

from self2self.errors import UsageError
from self2self.machine.system import compute_threads
from self2self.machine.workers import Workers
from self2self.model.contract import KEEP_LEVELS, MaskSpec

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]

PASSES_PER_BLOCK = 10
"""Passes that share balanced masks; drop rates of 0.1, 0.2, 0.4, 0.7 and 0.9 are whole tenths.

On the fast network at drop rates of 0.2 and 0.1, the mean of a block of 5, 10 and 16 passes has 0.39, 0.16 and
0.31 of the variance that independent passes give (dev/log).
"""

PIECE_SIZE = 2**20
"""Elements that share a random stream: of one mask, in the order of its memory. So many that seeding their stream, 14
microseconds, is a small part of the time."""
_CHUNK_SIZE = 2**17
"""Random bytes that are drawn, turned and compared at a time: so few that they are in the cache meanwhile, which saves
a fifth of the time against a whole piece. Whole words of the stream, so that it does not depend on this."""
_LARGEST_CACHE = 5 * 2**23
"""Random bytes that are kept for other passes, at most: those of the first pieces. Drawing them takes twice as long as
all else."""
_SMALLEST_THREADED_BATCH = 4 * PIECE_SIZE
"""Elements from which on several threads gain more than it costs to wake them."""

_PASSES_PER_PAIRED_BLOCK = 127
"""Passes that share what is drawn for paired masks; a prime number."""
_PAD_OFFSETS = [
    2 * _PASSES_PER_PAIRED_BLOCK * turn + turn**2 % _PASSES_PER_PAIRED_BLOCK for turn in range(_PASSES_PER_PAIRED_BLOCK)
]
"""Where in the pad each of them begins: a Sidon set, whose differences are all different."""
_PAD_STREAM = 2**32 - 1
"""In the place of a piece's number: the stream of a mask's pad."""


class Draws(Enum):
    """Which passes share random bytes, and how."""

    OWN = "own"
    """None do."""
    PAIRED = "paired"
    """Long runs of passes, any two of which are independent."""
    BALANCED = "balanced"
    """Ten passes, which drop every element equally often."""


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


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a mask that has a random stream of its own.

    Attributes:
        mask, number: which piece of which mask.
        length: elements.
        sharing: passes that share its bytes.
        kept: whether these are kept for the other passes.
    """

    mask: int
    number: int
    length: int
    sharing: int
    kept: bool


class MaskMaker:
    """Makes the masks of consecutive passes into arrays that it reuses.

    Args:
        specs: the masks; the place in the list is part of what a mask's random bytes depend on.
        axes: sizes of the data axes, for example ``{"H": 64, "W": 96}``.
        seed: non-negative seed of all passes.
        stream: which of the seed's independent streams.
        draws: which passes share random bytes. Paired masks do where these are kept, and those of images that are too
            large for that have bytes of their own from there on.
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
        draws: Draws = Draws.OWN,
        channels_last: bool = False,
    ) -> None:
        self.specs = tuple(specs)
        self.seed = seed
        self.stream = stream
        self.draws = draws
        self.block = PASSES_PER_BLOCK if draws is Draws.BALANCED else 1
        """Passes the variance of whose mean is not that of independent ones."""
        self.place = 0
        self._channels_last = channels_last
        self._shapes = [self._in_memory(spec.shape(axes)) for spec in self.specs]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._pieces = self._in_pieces()
        self._buffers: list[BoolArray] = []
        self._drawn: dict[tuple[int, int], tuple[tuple[int, int], ByteArray]] = {}
        """By numbers of mask and piece, the block and the place that bytes were drawn for, and the bytes."""
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
        jobs = [(offset, piece) for offset in range(count) for piece in self._pieces]
        shares = min(self._threads, len(jobs)) if count * sum(self._sizes) >= _SMALLEST_THREADED_BATCH else 1

        def work(share: int) -> None:
            for offset, piece in jobs[share::shares]:
                self._fill(first_pass + offset, offset, piece)

        self._workers.run(work, shares)
        made = (buffer[:count] for buffer in self._buffers)
        if self._channels_last:
            made = (np.moveaxis(mask, -1, 1) for mask in made)
        return {spec.name: mask for spec, mask in zip(self.specs, made, strict=True)}

    def _in_memory(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[1:], *shape[:1]) if self._channels_last else shape

    def _in_pieces(self) -> list[_Piece]:
        """All masks, in pieces."""
        pieces = []
        room = 0 if self.draws is Draws.OWN else _LARGEST_CACHE
        for mask, size in enumerate(self._sizes):
            for start in range(0, size, PIECE_SIZE):
                length = min(PIECE_SIZE, size - start)
                room -= length
                sharing = self.block
                if self.draws is Draws.PAIRED and room >= 0:
                    sharing = _PASSES_PER_PAIRED_BLOCK
                pieces.append(_Piece(mask, start // PIECE_SIZE, length, sharing, kept=room >= 0))
        return pieces

    def _fill(self, index: int, row: int, piece: _Piece) -> None:
        """Fill one piece of one mask of one pass."""
        keep_count = self.specs[piece.mask].keep_count
        first = piece.number * PIECE_SIZE
        # A slice, because an index into a mask without dimensions would give a copy.
        target = self._buffers[piece.mask][row : row + 1].reshape(-1)[first : first + piece.length]
        if keep_count == KEEP_LEVELS:
            target.fill(True)
            return
        block, turn = divmod(index, piece.sharing)
        pad = self._pad(block, piece.mask)[_PAD_OFFSETS[turn] :] if turn and self.draws is Draws.PAIRED else None
        turned = np.empty(min(piece.length, _CHUNK_SIZE), np.uint8)
        done = 0
        for drawn in self._random_bytes(block, piece):
            count = drawn.size
            if pad is not None:
                drawn = np.bitwise_xor(drawn, pad[done : done + count], out=turned[:count])
            elif turn:
                drawn = np.add(drawn, np.uint8(turn * KEEP_LEVELS // PASSES_PER_BLOCK), out=turned[:count])
            np.less(drawn, np.uint8(keep_count), out=target[done : done + count])
            done += count

    def _random_bytes(self, block: int, piece: _Piece) -> Iterator[ByteArray]:
        """The bytes that all passes of `block` share for `piece`, in parts."""
        starts = range(0, piece.length, _CHUNK_SIZE)
        if piece.kept:
            kept = self._kept(block, piece.mask, piece.number, piece.length)
            yield from (kept[start : start + _CHUNK_SIZE] for start in starts)
        else:
            bits = self._stream(block, piece.mask, piece.number)
            yield from (_bytes_of(bits, min(_CHUNK_SIZE, piece.length - start)) for start in starts)

    def _pad(self, block: int, mask: int) -> ByteArray:
        """What the passes of `block` that share a mask's bytes differ by."""
        return self._kept(block, mask, _PAD_STREAM, min(PIECE_SIZE, self._sizes[mask]) + _PAD_OFFSETS[-1])

    def _kept(self, block: int, mask: int, number: int, count: int) -> ByteArray:
        """The first `count` bytes of a stream, drawn once for all passes of a block."""
        drawn_for, drawn = self._drawn.get((mask, number), (None, None))
        if drawn is None or drawn_for != (block, self.place):
            drawn = _bytes_of(self._stream(block, mask, number), count)
            # Another thread may be at another block, or at the same; each goes on with what it has in hand.
            self._drawn[mask, number] = (block, self.place), drawn
        return drawn

    def _stream(self, block: int, mask: int, number: int) -> np.random.SFC64:
        return _bit_generator(self.seed, self.stream, block, self.place, mask, number)


def _bytes_of(bits: np.random.SFC64, count: int) -> ByteArray:
    """The next `count` bytes of a stream, and what is left of the last word is lost."""
    words = bits.random_raw(-(-count // 8))
    if sys.byteorder == "big":
        words = words.byteswap()
    return words.view(np.uint8)[:count]
