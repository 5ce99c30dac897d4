"""The network in bfloat16: each pass has rounding errors, and the mean of many passes has almost none.

bfloat16 keeps 8 bits. Weights that are rounded once have the same errors in every pass, and so in the mean of the
passes. Here the weights are rounded several times, into weight sets. Each weight is rounded up in some sets and down in
the others, so that its mean over all sets is right. Passes use the sets in turn. What remains of the rounding error
shrinks with the number of passes, as the noise of the passes does (non-subtractive dither: Lipshitz, Wannamaker,
Vanderkooy 1992). Activations are rounded to the nearest, because they differ from pass to pass anyway.

The layers at full resolution run in strips of rows if the image is large.
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

WEIGHT_SETS = PASSES_PER_BLOCK
"""Number of weight sets. Each orientation of the image has a block of as many passes, and so uses all sets."""
STRIP_VALUES = 3_000_000
"""Approximate size of a strip: values of its joined activations.

In smaller strips, the overlap costs more than the cache gains.
"""
_FLOAT32_STEPS = 1 << 16
"""Steps of float32 within one step of bfloat16, which drops 16 bits."""
_ENTER_HALO, _LEAVE_HALO = 2, 3
"""Convolutions before the first pooling and after the last upsampling.

Each depends on one more row above and below.
"""


def stochastically_rounded(values: Tensor, index: int, sets: int = WEIGHT_SETS) -> Tensor:
    """`values` rounded up or down to bfloat16; the mean over all sets is right to 1/`sets` of a bfloat16 step.

    Args:
        values: float32.
        index: index of the set, from 0.
        sets: number of sets; 1 rounds to the nearest.
    """
    offsets = _threshold_offsets(tuple(values.shape), sets)
    threshold = (2 * ((offsets + index) % sets) + 1) * (_FLOAT32_STEPS // (2 * sets))
    # Adding to the bits increases the magnitude, whatever the sign. A carry into the bits that are kept rounds it up.
    bits = (values.contiguous().view(torch.int32) + threshold) & -_FLOAT32_STEPS
    result = bits.view(torch.float32).to(torch.bfloat16)
    # NaN and infinity have to stay as they are: the ensemble reports predictions that are not finite.
    return result if values.isfinite().all() else torch.where(values.isfinite(), result, values.to(torch.bfloat16))


# Cached, because drawing the offsets takes as long as rounding, and the layers of a network have few shapes.
@lru_cache(maxsize=64)
def _threshold_offsets(shape: tuple[int, ...], sets: int) -> Tensor:
    """Random place of each value in the cycle of thresholds: the threshold's number in set 0, from 0 to `sets` - 1."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, sets, shape, dtype=np.int32))


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution: weights [outputs, inputs, 3, 3] and bias [outputs] of the same type."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, padded: Tensor) -> Tensor:
        """[1, inputs, H + 2, W + 2] to [1, outputs, H, W], both of the weights' type."""
        return F.conv2d(padded, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class _Gated:
    """A gated convolution as two convolutions.

    The two halves of a single convolution's result are not contiguous; operations on them take ten times as long.
    """

    feature: Layer
    gate: Layer

    def __call__(self, padded: Tensor) -> Tensor:
        feature = F.leaky_relu_(self.feature(padded), NEGATIVE_SLOPE)
        return feature.mul_(self.gate(padded).sigmoid_())


@dataclass(frozen=True, slots=True)
class _WeightSet:
    """All layers of the network, with the weights of one set."""

    stem: _Gated
    encoder: list[_Gated]
    decoder: list[tuple[Layer, Layer]]
    head: Layer


class Bf16Network:
    """`Self2SelfNet` in bfloat16, for single passes over one image.

    Args:
        network: the network in float32, on the CPU.
        image: float32 [1, C, H, W].
        workers: maximum number of strips that are computed at the same time.
        side_by_side: runs the workers.
        strip_values: see `STRIP_VALUES`.
        sets: number of weight sets; see `WEIGHT_SETS`.
    """

    def __init__(
        self,
        network: Self2SelfNet,
        image: Tensor,
        workers: int,
        side_by_side: SideBySide,
        strip_values: int = STRIP_VALUES,
        sets: int = WEIGHT_SETS,
    ) -> None:
        self._weight_sets = [_rounded_weight_set(network, index, sets) for index in range(sets)]
        self._head_bias = parameters_of(network.head)[1].view(1, -1, 1, 1)
        self._workers, self._side_by_side = workers, side_by_side
        self._joined_channels = network.encoder_width + network.decoder_widths[-2]
        self._strip_values = strip_values
        self.use_image(image)

    def use_image(self, image: Tensor, whole: Tensor | None = None) -> None:
        """Replace the image, float32 [1, C, H, W]."""
        high = image.to(torch.bfloat16)
        # The rounding error of `high` has channels of its own, so that the noise of a 16-bit image is not rounded away.
        low = (image - high).to(torch.bfloat16)
        planes = torch.cat([torch.ones_like(high), high, low], dim=1)
        self._planes = planes.contiguous(memory_format=torch.channels_last)

    def __call__(self, masks: Sequence[Tensor], index: int, *, shared: bool) -> Tensor:
        """Compute one pass.

        Args:
            masks: bool [1, ...], as for `Self2SelfNet`; fastest in the memory format channels last. None for no masks.
            index: index of the pass; it selects the weight set.
            shared: whether the workers share the strips of the layers at full resolution. Otherwise one strip follows
                the other. The layers in between use PyTorch's threads.

        Returns:
            float32 [1, C, H, W].
        """
        weights = self._weight_sets[index % len(self._weight_sets)]
        given: Sequence[Tensor | None] = masks or [None] * (1 + 2 * LEVELS)
        input_mask, *dropout = given
        run = self._side_by_side if shared else in_turn
        skip, pooled = self._enter(weights, input_mask, run)
        below = self._middle(weights, pooled, dropout[:-2])
        return self._leave(weights, below, skip, dropout[-2:], run)

    def _strips(self) -> list[slice]:
        """Strips of an even number of rows; for several workers, a multiple of their number."""
        height, width = self._planes.shape[2:]
        rows = max(2 * _LEAVE_HALO, self._strip_values // (self._joined_channels * width))
        count = max(1, height // rows)
        if self._workers > 1 and count > 1:
            count = -(-count // self._workers) * self._workers
        edges = [2 * (height // 2 * index // count) for index in range(count + 1)]
        return [slice(first, last) for first, last in pairwise(edges) if first < last]

    def _over_strips(self, compute: Callable[[slice], Sequence[Tensor]], run: SideBySide) -> list[Tensor]:
        """Run `compute` for each strip and concatenate its results along the rows."""
        strips = self._strips()
        parts: list[Sequence[Tensor]] = [()] * len(strips)
        workers = min(self._workers, len(strips))

        def work(first: int) -> None:
            with torch.inference_mode():
                for index in range(first, len(strips), workers):
                    parts[index] = compute(strips[index])

        run(work, workers)
        return [torch.cat(part, dim=2) for part in zip(*parts, strict=True)]

    def _enter(self, weights: _WeightSet, input_mask: Tensor | None, run: SideBySide) -> list[Tensor]:
        """The layers up to the first pooling: the activations of the first skip connection, and the pooled ones."""
        height = self._planes.shape[2]

        def compute(rows: slice) -> tuple[Tensor, Tensor]:
            window = _Window.around(rows, _ENTER_HALO, height)
            planes = self._planes[:, :, window.rows]
            mask = None
            if input_mask is not None:
                mask = input_mask[:, :, window.rows].repeat(1, planes.shape[1] // input_mask.shape[1], 1, 1)
            x = weights.stem(window.pad(planes, mask=mask))
            x = weights.encoder[0](window.pad(x))
            x = x[:, :, window.within(rows)]
            return x, F.max_pool2d(x, 2)

        return self._over_strips(compute, run)

    @staticmethod
    def _middle(weights: _WeightSet, pooled: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
        """The layers between the first pooling and the last upsampling, for the whole image."""
        skips = []
        x = pooled
        for level in range(1, LEVELS + 1):
            if level > 1:
                x = F.max_pool2d(x, 2)
            x = weights.encoder[level](_Window.whole(x).pad(x))
            skips.append(x)
        x = skips.pop()
        for level, (first, second) in enumerate(weights.decoder[:-1]):
            skip = skips.pop()
            window = _Window.whole(skip)
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.leaky_relu_(first(window.pad(x, skip, mask=masks[2 * level])), NEGATIVE_SLOPE)
            x = F.leaky_relu_(second(window.pad(x, mask=masks[2 * level + 1])), NEGATIVE_SLOPE)
        return x

    def _leave(
        self, weights: _WeightSet, below: Tensor, skip: Tensor, masks: Sequence[Tensor | None], run: SideBySide
    ) -> Tensor:
        """The layers from the last upsampling on: the prediction, float32 [1, C, H, W]."""
        height = skip.shape[2]
        first, second = weights.decoder[-1]

        def of(mask: Tensor | None, rows: slice) -> Tensor | None:
            return None if mask is None else mask[:, :, rows]

        def compute(rows: slice) -> tuple[Tensor]:
            window = _Window.around(rows, _LEAVE_HALO, height)
            x = upsample_rows(below, window.rows)
            x = first(window.pad(x, skip[:, :, window.rows], mask=of(masks[0], window.rows)))
            x = F.leaky_relu_(x, NEGATIVE_SLOPE)
            x = F.leaky_relu_(second(window.pad(x, mask=of(masks[1], window.rows))), NEGATIVE_SLOPE)
            x = weights.head(window.pad(x)).float()
            return (x[:, :, window.within(rows)],)

        (prediction,) = self._over_strips(compute, run)
        return prediction.add_(self._head_bias)


class _Window:
    """The rows of an image that a strip covers, from one convolution to the next.

    Each convolution removes a row at the top and at the bottom, except where the image itself ends.

    Args:
        rows: the rows before the first convolution.
        height: rows of the image.
    """

    def __init__(self, rows: slice, height: int) -> None:
        self.rows = rows
        self._above, self._below = rows.start > 0, rows.stop < height

    @classmethod
    def around(cls, rows: slice, halo: int, height: int) -> _Window:
        """`rows` and up to `halo` more above and below: so many convolutions leave `rows`."""
        return cls(slice(max(0, rows.start - halo), min(height, rows.stop + halo)), height)

    @classmethod
    def whole(cls, image: Tensor) -> _Window:
        """All rows of `image`, [1, C, H, W]."""
        return cls(slice(0, image.shape[2]), image.shape[2])

    def within(self, rows: slice) -> slice:
        """Indices of the image's `rows` within the current rows."""
        return slice(rows.start - self.rows.start, rows.stop - self.rows.start)

    def pad(self, *parts: Tensor, mask: Tensor | None = None) -> Tensor:
        """Join `parts` as the input of a 3x3 convolution, and set `rows` to the rows of the convolution's result.

        Args:
            parts: bfloat16 [1, C, rows, W].
            mask: bool, for the channels of all parts; None masks nothing.

        Returns:
            [1, sum of C, rows + border, W + 2]; the border is reflected where the image ends.
        """
        factors = None if mask is None else as_factors(mask, torch.bfloat16)
        out = pad_and_join(parts, factors, above=self._above, below=self._below)
        self.rows = slice(self.rows.start + self._above, self.rows.stop - self._below)
        return out


def _rounded_weight_set(network: Self2SelfNet, index: int, sets: int) -> _WeightSet:
    """The layers of `network`, rounded for set `index` of `sets`."""

    def layer(weight: Tensor, bias: Tensor | None) -> Layer:
        rounded_weight = stochastically_rounded(weight, index, sets).contiguous(memory_format=torch.channels_last)
        return Layer(rounded_weight, None if bias is None else stochastically_rounded(bias, index, sets))

    def gated(weight: Tensor, bias: Tensor) -> _Gated:
        half = len(bias) // 2
        return _Gated(layer(weight[:half], bias[:half]), layer(weight[half:], bias[half:]))

    stem, stem_bias = parameters_of(network.stem.conv)
    # The image has two parts, `high` and `low` of `use_image`, which have the same weights.
    stem = torch.cat([stem, stem[:, network.channels :]], dim=1)
    # Dropout's scale of the kept activations is part of the weights.
    scale = 1.0 / network.decoder_keep

    def scaled(convolution: torch.nn.Module) -> Layer:
        weight, bias = parameters_of(convolution)
        return layer(weight * scale, bias)

    return _WeightSet(
        gated(stem, stem_bias),
        [gated(*parameters_of(block.conv)) for block in network.encoder],  # type: ignore[arg-type]
        [
            (scaled(first), scaled(second))
            for first, second in zip(network.decoder_first, network.decoder_second, strict=True)
        ],
        # The head's bias is added in float32.
        layer(parameters_of(network.head)[0], None),
    )


def parameters_of(convolution: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a module that is, or contains, a single convolution."""
    weight, bias = (tensor.detach() for tensor in convolution.parameters())
    return weight, bias
