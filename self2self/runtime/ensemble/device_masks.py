"""Make dropout masks on the device where the passes run.

For a GPU, copying masks from the host takes longer than the passes themselves.

Batch size and order do not change the masks of a pass. One kind of device with the same libraries makes the same masks
in every run. They differ from the host's masks (`model.masks`), because the random generators differ. The probability
is the same: here, too, one random byte decides one element.

A pass on a fast GPU takes a few tenths of a millisecond, and each launch of a kernel takes some microseconds. Where
kernels can be compiled (`nvrtc`), one launch makes one mask for all passes of a batch. Elsewhere PyTorch's generator is
seeded for each pass; one call draws all random numbers of a pass, and one call for each mask compares the numbers of
several passes.

All functions take the device as an argument and also run on ``"cpu"``, where the tests check them.
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
"""The random numbers of a mask begin at a multiple of this many bytes, so that they can be read in wide pieces."""
_PASSES_AT_ONCE = 8
"""Number of passes whose random numbers are in memory at a time."""
_SEED_BITS = 63
KERNELS = "masks.cu"
_ELEMENTS_PER_DRAW = 16
"""Mask elements of one draw; `KERNELS` has the same number."""
_THREADS = 256


def pass_seed(seed: int, index: int, place: int = 0) -> int:
    """Seed of pass `index` at tile position `place`: 63 bits, which the generator of every device takes."""
    word = np.random.SeedSequence((seed, int(Stream.DEVICE), index, place)).generate_state(1, np.uint64)[0]
    return int(word) >> (64 - _SEED_BITS)


class DeviceMasks:
    """Makes the masks of consecutive passes into buffers on a device.

    Args:
        specs: the masks, in the order in which they consume random numbers.
        axes: sizes of the data axes, for example ``{"H": 64, "W": 96}``.
        seed: seed of all passes.
        device: PyTorch's name of the device.
        place: position of the tile, as for `masks.MaskMaker`.
        channels_last: whether masks have channels last in memory. Elements take random numbers in the order of memory,
            so the two orders give different masks of the same distribution.
        kernels: the compiled `KERNELS`; None for PyTorch's generator.
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
        # The generator draws whole words, because 8 bytes take the same time as one.
        self._row_words = end // _WORD_BYTES
        self._words: torch.Tensor | None = None

    def allocate(self, capacity: int) -> dict[str, torch.Tensor]:
        """Allocate buffers for `capacity` passes: name to bool tensor [capacity, ...shape of the mask].

        Raises:
            torch.OutOfMemoryError: the buffers do not fit.
        """
        import torch

        return {
            spec.name: torch.empty((capacity, *shape), dtype=torch.bool, device=self.device, memory_format=self._order)
            for spec, shape in zip(self.specs, self._shapes, strict=True)
        }

    def fill(self, buffers: dict[str, torch.Tensor], first_pass: int, count: int) -> dict[str, torch.Tensor]:
        """Make the masks of passes `first_pass` to `first_pass + count - 1`; returns views of `buffers`."""
        masks = {name: buffer[:count] for name, buffer in buffers.items()}
        if self._kernels is None:
            self._compare(masks, first_pass, count)
        else:
            self._launch(self._kernels, masks, first_pass, count)
        return masks

    def _launch(self, kernels: Launcher, masks: dict[str, torch.Tensor], first_pass: int, count: int) -> None:
        words = np.random.SeedSequence((self.seed, int(Stream.DEVICE), self.place)).generate_state(2, np.uint32)
        # The kernel takes ints of C++, so pass the ints that have the same bits.
        key: list[int] = words.view(np.int32).tolist()
        for number, spec in enumerate(self.specs):
            draws, rest = divmod(masks[spec.name][0].numel(), _ELEMENTS_PER_DRAW)
            blocks = -(-(draws + (rest > 0)) // _THREADS)
            numbers = (draws, rest, spec.keep_count, *key, number, first_pass)
            kernels.launch("draw", (blocks, count, 1), _THREADS, (masks[spec.name], *numbers))

    def _compare(self, masks: dict[str, torch.Tensor], first_pass: int, count: int) -> None:
        import torch

        rows = min(count, _PASSES_AT_ONCE)
        if self._words is None or len(self._words) < rows:
            self._words = torch.empty((rows, self._row_words), dtype=torch.int64, device=self.device)
        numbers = self._words.view(torch.uint8)
        for first in range(0, count, rows):
            part = min(rows, count - first)
            for row in range(part):
                self._generator.manual_seed(pass_seed(self.seed, first_pass + first + row, self.place))
                # The range makes all 64 bits random; without it the sign bit would always be zero.
                draw: Any = self._words[row].random_
                draw(-(2**63), None, generator=self._generator)
            for spec, offset in zip(self.specs, self._offsets, strict=True):
                target = self._in_memory(masks[spec.name][first : first + part])
                if spec.keep_count == KEEP_LEVELS:
                    target.fill_(True)
                    continue
                torch.lt(numbers[:part, offset : offset + target.shape[1]], spec.keep_count, out=target)

    def _in_memory(self, mask: torch.Tensor) -> torch.Tensor:
        """View of `mask` [passes, elements], with the elements of each pass in the order of memory."""
        import torch

        return (mask.permute(0, 2, 3, 1) if self._order == torch.channels_last else mask).flatten(1)
