"""Make dropout masks as a pure function: (seed, pass index, shapes) to booleans.

The masks do not depend on batch size, order, thread count or machine: pass 17 of seed 0 always has
the same masks. One random byte decides one element (``byte < keep_count``), because drawing 32-bit
uniforms costs five times as much, and the masks of one pass at 256x256 have 21 million elements.

Drawing bytes takes longer than all other work, so passes may share bytes (`Draws`). Each pass alone always has the same
distribution as a pass with bytes of its own.

**Balanced masks.** The ten passes of a block share bytes. Pass t of the block adds t/10 of 256 to every byte, modulo
256, before the comparison. Different elements stay independent. Within a block, every element is dropped equally often:
to one pass, and exactly if ten times the drop rate is a whole number. So the variance that single elements add to the
ensemble cancels. This is systematic sampling, a form of the antithetic variates of Hammersley and Morton (1956).

**Paired masks.** The 127 passes of a block share bytes and a pad of random bytes. Pass t takes the exclusive or of the
shared bytes and the pad from its t-th offset on. Two passes differ by the exclusive or of two parts of the pad. That
difference is as random as the pad, and one of the two passes alone does not determine it. So any two passes are
independent. The variance of the mean depends on pairs alone, so it equals the variance with independent passes
(two-point sampling, Chor and Goldreich 1989). No two pairs of offsets have the same difference (Erdos and Turan 1941),
because chance correlations of pairs with the same difference would add up. All pieces of a mask use one pad, which
then stays in the cache. Therefore each piece of a pass is independent of all of another pass, but products of elements
that lie whole pieces apart are not.

The bytes are those of numpy's SFC64 seeded through SeedSequence; numpy guarantees both streams
for all versions (NEP 19). Each piece of a mask has its own stream, so that several threads can
make the masks of a pass.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import UsageError, typed
from self2self.machine.system import compute_threads
from self2self.machine.workers import Workers
from self2self.model.contract import KEEP_LEVELS, MaskSpec

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]

PASSES_PER_BLOCK = 10
"""Passes in a block of balanced masks. The recipes' drop rates of 0.1, 0.2, 0.4, 0.7 and 0.9 are whole tenths.

On the fast network at drop rates of 0.2 and 0.1, the variance of the mean of a block of 5, 10 and 16 passes is 0.39,
0.16 and 0.31 times the variance with independent passes (dev/log).
"""

PIECE_SIZE = 2**20
"""Elements of one mask, in the order of its memory, that share a random stream. Seeding a stream takes 14 microseconds,
a small part of the time for so many elements."""
_CHUNK_SIZE = 2**17
"""Random bytes that are drawn, combined and compared at a time. They stay in the processor's cache meanwhile, which
saves a fifth of the time against a whole piece. The size is a multiple of the stream's words, so that masks do not
depend on it."""
_LARGEST_CACHE = 5 * 2**23
"""Largest number of random bytes that are kept for other passes; the first pieces are kept. Drawing bytes takes twice
as long as all other work."""
_SMALLEST_THREADED_BATCH = 4 * PIECE_SIZE
"""Number of elements from which on several threads save more time than it takes to wake them."""

_PASSES_PER_PAIRED_BLOCK = 127
"""Passes in a block of paired masks; a prime number."""
_PAD_OFFSETS = [
    2 * _PASSES_PER_PAIRED_BLOCK * position + position**2 % _PASSES_PER_PAIRED_BLOCK
    for position in range(_PASSES_PER_PAIRED_BLOCK)
]
"""Offset into the pad for each pass of a block: a Sidon set, in which all differences differ."""
_PAD_STREAM = 2**32 - 1
"""Stream number of a mask's pad, where the mask's other streams have the number of a piece."""


class Draws(Enum):
    """How passes share random bytes."""

    OWN = "own"
    """Each pass has bytes of its own."""
    PAIRED = "paired"
    """Blocks of 127 passes share bytes; any two passes are independent."""
    BALANCED = "balanced"
    """Blocks of ten passes share bytes and drop every element equally often."""


class Stream(IntEnum):
    """Independent random streams of one seed, so that a pass never repeats the masks of a training step."""

    ENSEMBLE = 0
    FIT = 1
    CROP = 2
    DEVICE = 3
    NOISE = 4
    PLAIN = 5
    LIVE = 6


def check_seed(seed: int) -> None:
    """Refuse seeds of more than one word of a SeedSequence, with which two streams could coincide.

    Raises:
        UsageError: `seed` is not in 0 to 2**32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"{typed('--seed')} is {seed}; expected 0 to {2**32 - 1}.")


def generator(seed: int, index: int, stream: Stream) -> np.random.Generator:
    """Return the random generator for step or pass `index` of `seed`; all generators are independent."""
    return np.random.Generator(bit_generator(seed, stream, index))


def bit_generator(seed: int, stream: Stream, *words: int) -> np.random.SFC64:
    """Return the source of raw random words for `words`, such as a pass; the sources of all words are independent."""
    return np.random.SFC64(np.random.SeedSequence((seed, int(stream), *words)))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a mask with its own random stream.

    Attributes:
        mask: index of the mask.
        number: index of the piece in the mask.
        length: number of elements.
        passes_per_block: number of passes that share its bytes.
        cached: whether its bytes are kept for the other passes of the block.
    """

    mask: int
    number: int
    length: int
    passes_per_block: int
    cached: bool


class MaskMaker:
    """Makes the masks of consecutive passes, in arrays that it reuses.

    Args:
        specs: the masks; a mask's random bytes also depend on its index in this list.
        axes: sizes of the data axes, for example ``{"H": 64, "W": 96}``.
        seed: non-negative seed of all passes.
        stream: one of the seed's independent streams.
        draws: how passes share random bytes. Paired masks share only bytes that are cached; in large images, pieces
            beyond the cache have bytes of their own for each pass.
        channels_last: whether the channels of a pixel, and not the pixels of a channel, are contiguous in memory.
            Random bytes follow the memory order, so the masks differ between the two orders.

    Attributes:
        block: number of passes in a block of balanced masks, otherwise 1. The variance of a mean over passes within
            a block differs from the variance with independent passes.
        place: position of the tile that the masks are for, from `tiles.place_of`. Tiles at different positions have
            independent masks. It may be set between two calls of `make`.
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
        self.place = 0
        self._channels_last = channels_last
        self._shapes = [self._memory_shape(spec.shape(axes)) for spec in self.specs]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._pieces = self._cut_into_pieces()
        self._buffers: list[BoolArray] = []
        self._cache: dict[tuple[int, int], tuple[tuple[int, int], ByteArray]] = {}
        """Maps (mask, piece number) to the block and tile position that the bytes were drawn for, and the bytes."""
        self._threads = compute_threads()
        self._workers = Workers(self._threads)

    def make(self, first_pass: int, count: int) -> dict[str, BoolArray]:
        """Make the masks of passes `first_pass` to `first_pass + count - 1`.

        Returns:
            name to bool array [count, ...shape of the mask], C-contiguous unless `channels_last` is set. The arrays
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

    def _memory_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[1:], *shape[:1]) if self._channels_last else shape

    def _cut_into_pieces(self) -> list[_Piece]:
        """Return the pieces of all masks; the first pieces that fit into the cache are cached."""
        pieces = []
        room = 0 if self.draws is Draws.OWN else _LARGEST_CACHE
        for mask, size in enumerate(self._sizes):
            for start in range(0, size, PIECE_SIZE):
                length = min(PIECE_SIZE, size - start)
                room -= length
                passes_per_block = self.block
                if self.draws is Draws.PAIRED and room >= 0:
                    passes_per_block = _PASSES_PER_PAIRED_BLOCK
                pieces.append(_Piece(mask, start // PIECE_SIZE, length, passes_per_block, cached=room >= 0))
        return pieces

    def _fill(self, index: int, row: int, piece: _Piece) -> None:
        """Fill one piece of one mask of one pass."""
        keep_count = self.specs[piece.mask].keep_count
        first = piece.number * PIECE_SIZE
        # The row is a slice, because an index into a mask without dimensions would give a copy.
        target = self._buffers[piece.mask][row : row + 1].reshape(-1)[first : first + piece.length]
        if keep_count == KEEP_LEVELS:
            target.fill(True)
            return
        block, position = divmod(index, piece.passes_per_block)
        pad = (
            self._pad_bytes(block, piece.mask)[_PAD_OFFSETS[position] :]
            if position and self.draws is Draws.PAIRED
            else None
        )
        combined = np.empty(min(piece.length, _CHUNK_SIZE), np.uint8)
        done = 0
        for drawn in self._random_bytes(block, piece):
            count = drawn.size
            if pad is not None:
                drawn = np.bitwise_xor(drawn, pad[done : done + count], out=combined[:count])
            elif position:
                drawn = np.add(drawn, np.uint8(position * KEEP_LEVELS // PASSES_PER_BLOCK), out=combined[:count])
            np.less(drawn, np.uint8(keep_count), out=target[done : done + count])
            done += count

    def _random_bytes(self, block: int, piece: _Piece) -> Iterator[ByteArray]:
        """Yield the bytes that all passes of `block` share for `piece`, in chunks."""
        starts = range(0, piece.length, _CHUNK_SIZE)
        if piece.cached:
            kept = self._cached_bytes(block, piece.mask, piece.number, piece.length)
            yield from (kept[start : start + _CHUNK_SIZE] for start in starts)
        else:
            bits = self._piece_stream(block, piece.mask, piece.number)
            yield from (_bytes_of(bits, min(_CHUNK_SIZE, piece.length - start)) for start in starts)

    def _pad_bytes(self, block: int, mask: int) -> ByteArray:
        """Return the pad of a mask, whose parts distinguish the passes of `block`."""
        return self._cached_bytes(block, mask, _PAD_STREAM, min(PIECE_SIZE, self._sizes[mask]) + _PAD_OFFSETS[-1])

    def _cached_bytes(self, block: int, mask: int, number: int, count: int) -> ByteArray:
        """Return the first `count` bytes of a stream, which are drawn once for all passes of a block."""
        drawn_for, drawn = self._cache.get((mask, number), (None, None))
        if drawn is None or drawn_for != (block, self.place):
            drawn = _bytes_of(self._piece_stream(block, mask, number), count)
            # Another thread may work on the same piece for this or another block; each thread uses its own `drawn`.
            self._cache[mask, number] = (block, self.place), drawn
        return drawn

    def _piece_stream(self, block: int, mask: int, number: int) -> np.random.SFC64:
        return bit_generator(self.seed, self.stream, block, self.place, mask, number)


def random_integers(bits: np.random.SFC64, count: int, item: str) -> NDArray[Any]:
    """Return the next `count` integers of a stream; what is left of its last word of 64 bits is lost.

    Args:
        bits: the stream.
        count: number of integers.
        item: NumPy's name of a little-endian type without sign: ``"u1"``, ``"<u2"`` or ``"<u4"``. Every value of it is
            equally likely.
    """
    size = np.dtype(item).itemsize
    words = bits.random_raw(-(-count * size // 8))
    if sys.byteorder == "big":
        words = words.byteswap()
    return words.view(item)[:count]


def _bytes_of(bits: np.random.SFC64, count: int) -> ByteArray:
    return random_integers(bits, count, "u1")
