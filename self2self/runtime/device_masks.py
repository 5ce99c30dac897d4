"""Dropout masks made where the passes run: on a GPU, copying masks there costs more than the passes.

Each pass seeds the generator anew, so batch size and order do not change its masks. They are
the same on every run on one kind of device, and other ones than the host's (`masks`): generators
differ. The probability is the same, because here too one random byte decides one element.

A pass on a fast GPU takes a few tenths of a millisecond, and every call of a kernel some
microseconds. So one call draws all numbers of a pass, and one for each mask compares those of
several passes.

Everything takes the device as an argument and runs on ``"cpu"`` too, where the tests check it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.contract import KEEP_LEVELS, MaskSpec
from self2self.masks import Stream

if TYPE_CHECKING:
    import torch

_WORD_BYTES = 8
_ALIGNMENT = 16
"""Bytes of a row at which the numbers of a mask begin, so that they are read in wide pieces."""
_ROWS = 8
"""Passes whose random numbers are held at a time."""
_SEED_BITS = 63


def pass_seed(seed: int, index: int, place: int = 0) -> int:
    """What seeds pass `index` of `seed` for the tile at `place`; 63 bits, which every device's generator takes."""
    words = (seed, int(Stream.DEVICE), index) if place == 0 else (seed, int(Stream.DEVICE), index, place)
    word = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return int(word) >> (64 - _SEED_BITS)


class DeviceMasks:
    """Makes the masks of consecutive passes into buffers on a device.

    Args:
        specs: the masks, in the order in which they consume random numbers.
        axes: sizes of the data axes, for example ``{"H": 64, "W": 96}``.
        seed: of all passes.
        device: of PyTorch.
        place: of the tile, as for `masks.MaskMaker`.
    """

    def __init__(
        self, specs: Sequence[MaskSpec], axes: Mapping[str, int], seed: int, device: str, place: int = 0
    ) -> None:
        import torch

        self.specs = tuple(specs)
        self.seed = seed
        self.device = device
        self.place = place
        self._shapes = [spec.shape(axes) for spec in self.specs]
        self._generator = torch.Generator(device)
        self._offsets, end = [], 0
        for shape in self._shapes:
            self._offsets.append(end)
            end += -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT
        # Whole words: a draw of 8 bytes costs what a draw of one does.
        self._row_words = end // _WORD_BYTES
        self._words: torch.Tensor | None = None

    def allocate(self, capacity: int) -> dict[str, torch.Tensor]:
        """Buffers for `capacity` passes: name to bool tensor [capacity, ...shape of the mask].

        Raises:
            torch.OutOfMemoryError: they do not fit.
        """
        import torch

        return {
            spec.name: torch.empty((capacity, *shape), dtype=torch.bool, device=self.device)
            for spec, shape in zip(self.specs, self._shapes, strict=True)
        }

    def fill(self, buffers: dict[str, torch.Tensor], first_pass: int, count: int) -> dict[str, torch.Tensor]:
        """Masks of passes `first_pass` to `first_pass + count - 1`, as views of `buffers`."""
        import torch

        rows = min(count, _ROWS)
        if self._words is None or len(self._words) < rows:
            self._words = torch.empty((rows, self._row_words), dtype=torch.int64, device=self.device)
        numbers = self._words.view(torch.uint8)
        for first in range(0, count, rows):
            part = min(rows, count - first)
            for row in range(part):
                self._generator.manual_seed(pass_seed(self.seed, first_pass + first + row, self.place))
                # All 64 bits: without a range the sign bit would always be zero.
                draw: Any = self._words[row].random_
                draw(-(2**63), None, generator=self._generator)
            for spec, offset in zip(self.specs, self._offsets, strict=True):
                target = buffers[spec.name][first : first + part].flatten(1)
                if spec.keep_count == KEEP_LEVELS:
                    target.fill_(True)
                    continue
                torch.lt(numbers[:part, offset : offset + target.shape[1]], spec.keep_count, out=target)
        return {name: buffer[:count] for name, buffer in buffers.items()}
