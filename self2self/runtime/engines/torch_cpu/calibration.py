"""What activations of the network reach for one image: passes in float32, of which each channel's range is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from self2self.model.contract import MaskSpec
from self2self.model.layers import NEGATIVE_SLOPE
from self2self.model.masks import MaskMaker, Stream

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet

TILE = 128
"""Sides of what runs at a time, at most: a larger image runs in tiles, for little memory."""
_MOST_TILES = 16
"""Of more, some are left out."""
_FEWEST_VALUES, _MOST_LOOKS = 3_000_000, 32
"""Values of the widest activation that are seen, at least: a small image, or network, is looked at several times."""


class ActivationRanges:
    """Ranges and means of the channels of activations.

    Args:
        network: float32, on the CPU.
        image: float32 [1, C, H, W].
        specs: of the network's masks.
        names: of the modules of `network` to watch.

    Attributes:
        low, high: by the name of a module, the least and the greatest value of each channel of what it makes, [C];
            at most, and at least, 0.
        means: by the name of a module, the mean of each channel of what it reads, [C].
    """

    def __init__(self, network: Self2SelfNet, image: Tensor, specs: Sequence[MaskSpec], names: Sequence[str]) -> None:
        self.low: dict[str, Tensor] = {}
        self.high: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}

        def watching(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def watch(module: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> None:
                if isinstance(module, nn.Conv2d):
                    made = F.leaky_relu(made, NEGATIVE_SLOPE)
                low, high = torch.aminmax(made.flatten(2)[0], dim=1)
                nothing = torch.zeros_like(low)
                self.low[name] = torch.minimum(self.low.get(name, nothing), low)
                self.high[name] = torch.maximum(self.high.get(name, nothing), high)
                mean = inputs[0].mean(dim=(0, 2, 3))
                sums[name] = sums.get(name, torch.zeros_like(mean)) + mean

            return watch

        hooks = [network.get_submodule(name).register_forward_hook(watching(name)) for name in names]
        tiles = calibration_tiles(image)
        values = max(network.decoder_widths) * sum(tile.shape[2] * tile.shape[3] for tile in tiles)
        looks = tiles * min(_MOST_LOOKS, -(-_FEWEST_VALUES // values))
        try:
            for index, tile in enumerate(looks):
                axes = {"H": tile.shape[2], "W": tile.shape[3]}
                masks = MaskMaker(specs, axes, 0, Stream.FIT, channels_last=True).make(index, 1)
                network(tile.contiguous(memory_format=torch.channels_last), *map(torch.from_numpy, masks.values()))
        finally:
            for hook in hooks:
                hook.remove()
        self.means = {name: total / len(looks) for name, total in sums.items()}

    def span(self, name: str) -> Tensor:
        """Width of each channel's range."""
        return self.high[name] - self.low[name]

    def is_finite(self) -> bool:
        """Whether all that was seen were numbers."""
        return all(bool(self.span(name).isfinite().all()) for name in self.low)


def calibration_tiles(image: Tensor) -> list[Tensor]:
    """All of `image`, [1, C, H, W], in tiles; of a large one those where it is brightest, darkest and most varied, and
    others spread over it: activations go farthest where the image does.
    """
    tiles = [image[:, :, rows, columns] for rows in _parts(image.shape[2]) for columns in _parts(image.shape[3])]
    if len(tiles) <= _MOST_TILES:
        return tiles
    ranks = [
        torch.tensor([measure(tile) for tile in tiles]).argsort(descending=True, stable=True).tolist()
        for measure in (torch.max, lambda tile: -torch.min(tile), torch.std)
    ]
    ranks.append([len(tiles) * index // _MOST_TILES for index in range(_MOST_TILES)])
    chosen = dict.fromkeys(index for best in zip(*ranks, strict=False) for index in best)
    return [tiles[index] for index in list(chosen)[:_MOST_TILES]]


def _parts(length: int) -> list[slice]:
    """Parts, of `TILE` at most, of a side that is a multiple of 32 from 64 up, which each of them is, too."""
    count = -(-length // TILE)
    edges = [32 * (length // 32 * index // count) for index in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]
