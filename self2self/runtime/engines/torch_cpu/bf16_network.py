"""The network in bfloat16, for CPUs that multiply matrices of it: a pass is rounded, the mean of many is not.

bfloat16 keeps 8 bits. Rounding the weights to them once would change all passes alike, and so their mean. Here the
weights are rounded several times over, each value up in some of these sets and down in the others so that it is right
on average, and passes take turns in the sets: what is left of the rounding shrinks with the number of passes, like
the noise of the passes themselves. (Non-subtractive dither: Lipshitz, Wannamaker, Vanderkooy 1992.) Activations are
rounded to the nearest; they differ from pass to pass anyhow.

The full-resolution ends of large images are computed in strips of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from self2self.model.channels_last import as_factors, pad_and_join, upsample_rows
from self2self.model.layers import LEVELS, NEGATIVE_SLOPE
from self2self.model.masks import PASSES_PER_BLOCK
from self2self.runtime.engines.windows import SideBySide, in_turn

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet

SETS = PASSES_PER_BLOCK
"""Roundings of the weights, of which passes take turns; each orientation of the image has a block of them in turn."""
STRIP_VALUES = 3_000_000
"""What the joined activations of a strip have, about: fewer cost more in overlap than they gain in the cache."""
_DROPPED = 1 << 16
"""Bits of a float32 that bfloat16 drops, as a number of steps."""
_HALO_IN, _HALO_OUT = 2, 3
"""Convolutions before the first pooling and after the last upsampling, each of which sees one pixel far."""


def rounded(values: Tensor, index: int, sets: int = SETS) -> Tensor:
    """`values` as bfloat16, each rounded up or down: over all sets right on average, to a `sets`-th of a step.

    Args:
        values: float32.
        index: which of the sets, from 0.
        sets: how many there are; 1 rounds to the nearest.
    """
    threshold = (2 * ((_starts(tuple(values.shape), sets) + index) % sets) + 1) * (_DROPPED // (2 * sets))
    # Of sign and magnitude, the magnitude grows: what carries into the bits that stay is rounded up.
    bits = (values.contiguous().view(torch.int32) + threshold) & -_DROPPED
    made = bits.view(torch.float32).to(torch.bfloat16)
    # What is no number has to stay none, for `ensemble.not_finite_error`.
    return made if values.isfinite().all() else torch.where(values.isfinite(), made, values.to(torch.bfloat16))


# Drawing them takes as long as rounding, and the layers of a network have few shapes.
@lru_cache(maxsize=64)
def _starts(shape: tuple[int, ...], sets: int) -> Tensor:
    """In which of the sets each value is rounded by the lowest threshold."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, sets, shape, dtype=np.int32))


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution: weights [outputs, inputs, 3, 3] and biases, of one type."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, padded: Tensor) -> Tensor:
        """[1, inputs, H + 2, W + 2] to [1, outputs, H, W], of their type."""
        return F.conv2d(padded, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class _Gated:
    """A gated convolution as two: halves of one's result are not contiguous, and take ten times as long to go over."""

    feature: Layer
    gate: Layer

    def __call__(self, padded: Tensor) -> Tensor:
        feature = F.leaky_relu_(self.feature(padded), NEGATIVE_SLOPE)
        return feature.mul_(self.gate(padded).sigmoid_())


@dataclass(frozen=True, slots=True)
class _Layers:
    stem: _Gated
    encoder: list[_Gated]
    decoder: list[tuple[Layer, Layer]]
    head: Layer


class Bf16Network:
    """`Self2SelfNet` for single passes over one image.

    Args:
        network: float32, on the CPU.
        image: float32 [1, C, H, W].
        workers: strips that may be computed at the same time.
        side_by_side: how.
        strip_values: as `STRIP_VALUES`.
        sets: as `SETS`.
    """

    def __init__(
        self,
        network: Self2SelfNet,
        image: Tensor,
        workers: int,
        side_by_side: SideBySide,
        strip_values: int = STRIP_VALUES,
        sets: int = SETS,
    ) -> None:
        self._sets = [_rounded_layers(network, index, sets) for index in range(sets)]
        self._head_bias = parameters_of(network.head)[1].view(1, -1, 1, 1)
        self._workers, self._side_by_side = workers, side_by_side
        self._widest = network.encoder_width + network.decoder_widths[-2]
        self._strip_values = strip_values
        self.use_image(image)

    def use_image(self, image: Tensor) -> None:
        """Exchange the image, float32 [1, C, H, W]."""
        high = image.to(torch.bfloat16)
        # What the first rounding left, as channels of its own: the noise of a 16-bit image is not to be rounded away.
        low = (image - high).to(torch.bfloat16)
        planes = torch.cat([torch.ones_like(high), high, low], dim=1)
        self._planes = planes.contiguous(memory_format=torch.channels_last)

    def __call__(self, masks: Sequence[Tensor], index: int, *, shared: bool) -> Tensor:
        """One pass.

        Args:
            masks: bool [1, ...] as for `Self2SelfNet`; fastest with channels last.
            index: of the pass, which tells the set of weights that it takes.
            shared: whether the workers share the strips of the ends of the network, which otherwise take their turn;
                what is between the ends uses PyTorch's threads.

        Returns:
            float32 [1, C, H, W].
        """
        layers = self._sets[index % len(self._sets)]
        input_mask, *dropout = masks
        run = self._side_by_side if shared else in_turn
        skip, pooled = self._enter(layers, input_mask, run)
        below = self._middle(layers, pooled, dropout[:-2])
        return self._leave(layers, below, skip, dropout[-2:], run)

    def _strips(self) -> list[slice]:
        height, width = self._planes.shape[2:]
        rows = max(2 * _HALO_OUT, self._strip_values // (self._widest * width))
        count = max(1, height // rows)
        if self._workers > 1 and count > 1:
            count = -(-count // self._workers) * self._workers
        edges = [2 * (height // 2 * index // count) for index in range(count + 1)]
        return [slice(first, last) for first, last in pairwise(edges) if first < last]

    def _over_strips(self, compute: Callable[[slice], Sequence[Tensor]], run: SideBySide) -> list[Tensor]:
        """The results of `compute` for each strip, put together along the rows."""
        strips = self._strips()
        parts: list[Sequence[Tensor]] = [()] * len(strips)
        workers = min(self._workers, len(strips))

        def work(first: int) -> None:
            with torch.inference_mode():
                for index in range(first, len(strips), workers):
                    parts[index] = compute(strips[index])

        run(work, workers)
        return [torch.cat(part, dim=2) for part in zip(*parts, strict=True)]

    def _enter(self, layers: _Layers, input_mask: Tensor, run: SideBySide) -> list[Tensor]:
        """The activations of the first skip connection, and those that go on at half the resolution."""
        height = self._planes.shape[2]

        def compute(rows: slice) -> tuple[Tensor, Tensor]:
            window = _Window.around(rows, _HALO_IN, height)
            mask = input_mask[:, :, window.rows]
            planes = self._planes[:, :, window.rows]
            repeated = mask.repeat(1, planes.shape[1] // mask.shape[1], 1, 1)
            x = layers.stem(window.padded(planes, mask=repeated))
            x = layers.encoder[0](window.padded(x))
            x = x[:, :, window.within(rows)]
            return x, F.max_pool2d(x, 2)

        return self._over_strips(compute, run)

    @staticmethod
    def _middle(layers: _Layers, pooled: Tensor, masks: Sequence[Tensor]) -> Tensor:
        skips = []
        x = pooled
        for level in range(1, LEVELS + 1):
            if level > 1:
                x = F.max_pool2d(x, 2)
            x = layers.encoder[level](_Window.whole(x).padded(x))
            skips.append(x)
        x = skips.pop()
        for level, (first, second) in enumerate(layers.decoder[:-1]):
            skip = skips.pop()
            window = _Window.whole(skip)
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.leaky_relu_(first(window.padded(x, skip, mask=masks[2 * level])), NEGATIVE_SLOPE)
            x = F.leaky_relu_(second(window.padded(x, mask=masks[2 * level + 1])), NEGATIVE_SLOPE)
        return x

    def _leave(self, layers: _Layers, below: Tensor, skip: Tensor, masks: Sequence[Tensor], run: SideBySide) -> Tensor:
        height = skip.shape[2]
        first, second = layers.decoder[-1]

        def compute(rows: slice) -> tuple[Tensor]:
            window = _Window.around(rows, _HALO_OUT, height)
            x = upsample_rows(below, window.rows)
            x = first(window.padded(x, skip[:, :, window.rows], mask=masks[0][:, :, window.rows]))
            x = F.leaky_relu_(x, NEGATIVE_SLOPE)
            x = F.leaky_relu_(second(window.padded(x, mask=masks[1][:, :, window.rows])), NEGATIVE_SLOPE)
            x = layers.head(window.padded(x)).float()
            return (x[:, :, window.within(rows)],)

        (prediction,) = self._over_strips(compute, run)
        return prediction.add_(self._head_bias)


class _Window:
    """Rows of an image on their way through convolutions: each takes a row from every end that is not the image's.

    Args:
        rows: of the image, of `height` rows.
    """

    def __init__(self, rows: slice, height: int) -> None:
        self.rows = rows
        self._above, self._below = rows.start > 0, rows.stop < height

    @classmethod
    def around(cls, rows: slice, halo: int, height: int) -> _Window:
        """`rows` and as many more, where the image has them, as `halo` convolutions take."""
        return cls(slice(max(0, rows.start - halo), min(height, rows.stop + halo)), height)

    @classmethod
    def whole(cls, image: Tensor) -> _Window:
        """All of `image`, [1, C, H, W]."""
        return cls(slice(0, image.shape[2]), image.shape[2])

    def within(self, rows: slice) -> slice:
        """Where `rows` of the image are in what is left."""
        return slice(rows.start - self.rows.start, rows.stop - self.rows.start)

    def padded(self, *parts: Tensor, mask: Tensor | None = None) -> Tensor:
        """`parts`, [1, C, rows, W], with what a convolution needs around them; `rows` become those of its result."""
        factors = None if mask is None else as_factors(mask, torch.bfloat16)
        out = pad_and_join(parts, factors, above=self._above, below=self._below)
        self.rows = slice(self.rows.start + self._above, self.rows.stop - self._below)
        return out


def _rounded_layers(network: Self2SelfNet, index: int, sets: int) -> _Layers:
    """The layers of `network`, rounded for the set `index` of so many."""

    def layer(weight: Tensor, bias: Tensor | None) -> Layer:
        to_channels_last = rounded(weight, index, sets).contiguous(memory_format=torch.channels_last)
        return Layer(to_channels_last, None if bias is None else rounded(bias, index, sets))

    def gated(weight: Tensor, bias: Tensor) -> _Gated:
        half = len(bias) // 2
        return _Gated(layer(weight[:half], bias[:half]), layer(weight[half:], bias[half:]))

    stem, stem_bias = parameters_of(network.stem.conv)
    # The image comes in two parts that are weighted alike.
    stem = torch.cat([stem, stem[:, network.channels :]], dim=1)
    # What is kept is scaled by the weights, not by the mask.
    scale = 1.0 / network.decoder_keep

    def scaled(convolution: torch.nn.Module) -> Layer:
        weight, bias = parameters_of(convolution)
        return layer(weight * scale, bias)

    return _Layers(
        gated(stem, stem_bias),
        [gated(*parameters_of(block.conv)) for block in network.encoder],  # type: ignore[arg-type]
        [
            (scaled(first), scaled(second))
            for first, second in zip(network.decoder_first, network.decoder_second, strict=True)
        ],
        # Its bias is added in float32.
        layer(parameters_of(network.head)[0], None),
    )


def parameters_of(convolution: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Weights and biases of a module that is, or has, a single convolution."""
    weight, bias = (tensor.detach() for tensor in convolution.parameters())
    return weight, bias
