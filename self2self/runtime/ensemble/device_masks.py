"""Dropout masks made where the passes run: on a GPU, copying masks there costs more than the passes.

Batch size and order do not change the masks of a pass. They are the same on every run on one kind of
device with the same libraries, and other ones than the host's (`masks`): generators differ. The
probability is the same, because here too one random byte decides one element.

A pass on a fast GPU takes a few tenths of a millisecond, and every call of a kernel some
microseconds. Where kernels can be compiled (`nvrtc`), one call makes a mask of all passes of a batch.
Elsewhere PyTorch's generator is seeded anew for each pass; one call draws all numbers of a pass, and
one for each mask compares those of several passes.

Everything takes the device as an argument and runs on ``"cpu"`` too, where the tests check it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.model.contract import KEEP_LEVELS, MaskSpec
from self2self.model.masks import Stream
from self2self.runtime.engines.torch_cuda.nvrtc import Launcher

if TYPE_CHECKING:
    import torch

_WORD_BYTES = 8
_ALIGNMENT = 16
"""Bytes of a row at which the numbers of a mask begin, so that they are read in wide pieces."""
_ROWS = 8
"""Passes whose random numbers are held at a time."""
_SEED_BITS = 63
KERNELS = "masks.cu"
_DRAWN = 16
"""Elements of a draw, as `KERNELS` has it."""
_THREADS = 256


def pass_seed(seed: int, index: int, place: int = 0) -> int:
    """What seeds pass `index` of `seed` for the tile at `place`; 63 bits, which every device's generator takes."""
    word = np.random.SeedSequence((seed, int(Stream.DEVICE), index, place)).generate_state(1, np.uint64)[0]
    return int(word) >> (64 - _SEED_BITS)


class DeviceMasks:
    """Makes the masks of consecutive passes into buffers on a device.

    Args:
        specs: the masks, in the order in which they consume random numbers.
        axes: sizes of the data axes, for example ``{"H": 64, "W": 96}``.
        seed: of all passes.
        device: of PyTorch.
        place: of the tile, as for `masks.MaskMaker`.
        channels_last: the memory order of the masks, and that in which their elements take the numbers. Elements are
            independent, so either is a fair draw, and another one.
        kernels: of `KERNELS`; None for PyTorch's generator.
    """

    def __init__(
        self,
        specs: Sequence[MaskSpec],
        axes: Mapping[str, int],
        seed: int,
        device: str,
        place: int = 0,
        channels_last: bool = False,
        kernels: Launcher | None = None,
    ) -> None:
        import torch

        self.specs = tuple(specs)
        self.seed = seed
        self.device = device
        self.place = place
        self._order = torch.channels_last if channels_last else torch.contiguous_format
        self._shapes = [spec.shape(axes) for spec in self.specs]
        self._kernels = kernels
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
            spec.name: torch.empty((capacity, *shape), dtype=torch.bool, device=self.device, memory_format=self._order)
            for spec, shape in zip(self.specs, self._shapes, strict=True)
        }

    def fill(self, buffers: dict[str, torch.Tensor], first_pass: int, count: int) -> dict[str, torch.Tensor]:
        """Masks of passes `first_pass` to `first_pass + count - 1`, as views of `buffers`."""
        masks = {name: buffer[:count] for name, buffer in buffers.items()}
        if self._kernels is None:
            self._compare(masks, first_pass, count)
        else:
            self._launch(self._kernels, masks, first_pass, count)
        return masks

    def _launch(self, kernels: Launcher, masks: dict[str, torch.Tensor], first_pass: int, count: int) -> None:
        words = np.random.SeedSequence((self.seed, int(Stream.DEVICE), self.place)).generate_state(2, np.uint32)
        # As the int of C++ that has the same bits.
        key: list[int] = words.view(np.int32).tolist()
        for number, spec in enumerate(self.specs):
            draws, rest = divmod(masks[spec.name][0].numel(), _DRAWN)
            blocks = -(-(draws + (rest > 0)) // _THREADS)
            numbers = (draws, rest, spec.keep_count, *key, number, first_pass)
            kernels.launch("draw", (blocks, count, 1), _THREADS, (masks[spec.name], *numbers))

    def _compare(self, masks: dict[str, torch.Tensor], first_pass: int, count: int) -> None:
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
                target = self._in_memory(masks[spec.name][first : first + part])
                if spec.keep_count == KEEP_LEVELS:
                    target.fill_(True)
                    continue
                torch.lt(numbers[:part, offset : offset + target.shape[1]], spec.keep_count, out=target)

    def _in_memory(self, mask: torch.Tensor) -> torch.Tensor:
        """The elements of each pass, one behind the other in memory."""
        import torch

        return (mask.permute(0, 2, 3, 1) if self._order == torch.channels_last else mask).flatten(1)
