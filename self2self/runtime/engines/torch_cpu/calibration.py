"""Calibration of the int8 network: passes in float32 over one image measure the range of each activation channel."""

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

LARGEST_TILE_SIDE = 128
"""Largest side of a tile, in pixels. A larger image runs in tiles, which take less memory."""
_MAXIMUM_TILES = 16
"""Tiles of a calibration. Of a larger image, only some tiles are used."""
_MINIMUM_VALUES, _MAXIMUM_REPEATS = 3_000_000, 32
"""Values of the widest activation that a calibration covers, and how often it may repeat the tiles for that.

A small image or network needs several passes with different masks.
"""


class ActivationRanges:
    """Ranges and means of activation channels, measured in float32 passes over one image.

    Args:
        network: the network in float32, on the CPU.
        image: float32 [1, C, H, W].
        specs: the network's masks; none for passes without masks.
        names: names of the modules of `network` to observe.

    Attributes:
        low, high: by module name, the smallest and the largest value of each output channel, float32 [C], after the
            activation function. `low` is at most 0, and `high` at least 0.
        means: by module name, the mean of each input channel, float32 [C].
    """

    def __init__(self, network: Self2SelfNet, image: Tensor, specs: Sequence[MaskSpec], names: Sequence[str]) -> None:
        self.low: dict[str, Tensor] = {}
        self.high: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}

        def observer(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def observe(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                # A plain convolution's activation function is not part of its module; a gated one's is.
                if isinstance(module, nn.Conv2d):
                    output = F.leaky_relu(output, NEGATIVE_SLOPE)
                low, high = torch.aminmax(output.flatten(2)[0], dim=1)
                zero = torch.zeros_like(low)
                self.low[name] = torch.minimum(self.low.get(name, zero), low)
                self.high[name] = torch.maximum(self.high.get(name, zero), high)
                mean = inputs[0].mean(dim=(0, 2, 3))
                sums[name] = sums.get(name, torch.zeros_like(mean)) + mean

            return observe

        hooks = [network.get_submodule(name).register_forward_hook(observer(name)) for name in names]
        # An image that is cut into tiles may have outliers, which its tiles do not have.
        tiles = calibration_tiles(image)
        values = max(network.decoder_widths) * sum(tile.shape[2] * tile.shape[3] for tile in tiles)
        # Without masks, all passes over a tile are the same.
        passes = tiles * (min(_MAXIMUM_REPEATS, -(-_MINIMUM_VALUES // values)) if specs else 1)
        try:
            for index, tile in enumerate(passes):
                axes = {"H": tile.shape[2], "W": tile.shape[3]}
                maker = MaskMaker(specs, axes, 0, Stream.FIT, channels_last=True) if specs else None
                masks = {} if maker is None else maker.make(index, 1)
                network(
                    tile.clamp(0, 1).contiguous(memory_format=torch.channels_last),
                    *map(torch.from_numpy, masks.values()),
                )
        finally:
            for hook in hooks:
                hook.remove()
        self.means = {name: total / len(passes) for name, total in sums.items()}

    def span(self, name: str) -> Tensor:
        """Width of each output channel's range, [C]."""
        return self.high[name] - self.low[name]

    def is_finite(self) -> bool:
        """Whether all observed outputs were finite."""
        return all(bool(self.span(name).isfinite().all()) for name in self.low)


def calibration_tiles(image: Tensor) -> list[Tensor]:
    """The tiles of `image`, [1, C, H, W], that a calibration uses: all, or `_MAXIMUM_TILES` of a large image.

    Of a large image, they are the brightest tiles, the darkest, those with the largest standard deviation, and others
    spread over the image: extreme activations come from extreme pixels.
    """
    tiles = [
        image[:, :, rows, columns] for rows in _tile_slices(image.shape[2]) for columns in _tile_slices(image.shape[3])
    ]
    if len(tiles) <= _MAXIMUM_TILES:
        return tiles
    ranks = [
        torch.tensor([measure(tile) for tile in tiles]).argsort(descending=True, stable=True).tolist()
        for measure in (torch.max, lambda tile: -torch.min(tile), torch.std)
    ]
    ranks.append([len(tiles) * index // _MAXIMUM_TILES for index in range(_MAXIMUM_TILES)])
    chosen = dict.fromkeys(index for best in zip(*ranks, strict=False) for index in best)
    return [tiles[index] for index in list(chosen)[:_MAXIMUM_TILES]]


def _tile_slices(length: int) -> list[slice]:
    """Cut a side of `length` pixels into tiles of at most `LARGEST_TILE_SIDE`.

    `length` is at least 64. Each tile's side is a multiple of 32, so up to 31 pixels are left out at the end.
    """
    count = -(-length // LARGEST_TILE_SIDE)
    edges = [32 * (length // 32 * index // count) for index in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]
