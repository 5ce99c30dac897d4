"""The layers of the int8 network: activations and weights quantised to 8-bit integers, for one image.

Activations are bytes. Each channel has its own step and zero. Both follow from the activations of the float32 network
for the image (`calibration`), so that the channel's range uses all 256 values. The steps become part of the weights: of
the convolution that reads the channel, and of the one that produces it, because a leaky ReLU lets a channel be scaled
before it. A channel that is less important to the convolution that reads it has a larger step, which leaves finer steps
to the weights of the other channels (similar to SmoothQuant, Xiao et al. 2022).

The weights of each output have 127 steps up and down. If each were rounded on its own, the errors would be largest
where the nine weights of a channel multiply nearly equal neighbours in an image. So the running sum over the nine
weights is rounded, and its differences are the integers: what one weight loses, the next gains (error diffusion, Floyd
and Steinberg 1976). The remaining error is positive in some of the ten weight sets and negative in the others. Passes
use the sets in turn, as in bfloat16 (`bf16_network`). The effect of that error on the mean of the inputs is subtracted
from the bias.

The first convolution stays in float32, because the image that it reads may have more than 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from self2self.model.contract import MaskSpec
from self2self.model.layers import LEVELS, weighted_inputs
from self2self.runtime.engines.torch_cpu.bf16_network import WEIGHT_SETS, Layer, parameters_of
from self2self.runtime.engines.torch_cpu.calibration import ActivationRanges

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet

LARGEST_BYTE, LARGEST_WEIGHT = 255, 127
_RANGE_MARGIN = 1.25
"""Factor by which the bytes' range exceeds the measured one: passes with other masks go beyond that (dev/log)."""
_IMPORTANCE_EXPONENT = 0.25
"""A channel's step is proportional to the inverse of this power of its importance (dev/log)."""
_MINIMUM_IMPORTANCE = 1e-3
"""Smallest importance of a channel, relative to the most important one. It limits the steps."""
_SNAKE_ORDER = [0, 1, 2, 5, 4, 3, 6, 7, 8]
"""Order of a channel's nine weights in error diffusion: each passes its error to a neighbour."""
_SNAKE_PLACES = [_SNAKE_ORDER.index(place) for place in range(len(_SNAKE_ORDER))]
"""The place of each of the nine weights in `_SNAKE_ORDER`."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How the channels of an activation are stored in bytes: value = (byte - zero) * step.

    Attributes:
        step: float32 [C], the difference between the values of neighbouring bytes.
        zero: float32 [C], the byte of the value 0.
    """

    step: Tensor
    zero: Tensor

    @classmethod
    def for_range(cls, low: Tensor, high: Tensor, importance: Tensor) -> Quantisation:
        """The quantisation for a measured range, with the margin `_RANGE_MARGIN`.

        Args:
            low: float32 [C], the smallest value of each channel, at most 0.
            high: float32 [C], the largest value of each channel, at least 0.
            importance: float32 [C] in [0, 1], from `_channel_importance`; 1 is the most important channel.
        """
        step = _RANGE_MARGIN / LARGEST_BYTE * (high - low)
        # A channel that is 0 everywhere needs a step, too.
        step = step.clamp(min=max(1e-6 * float(step.max()), 1e-30))
        step = step * importance.clamp(min=_MINIMUM_IMPORTANCE) ** -_IMPORTANCE_EXPONENT
        # The middle of the range is the middle of the bytes.
        return cls(step, torch.round((LARGEST_BYTE - (low + high) / step) / 2))

    @staticmethod
    def joined(parts: Sequence[Quantisation]) -> Quantisation:
        """The quantisation of a concatenation along the channels."""
        return Quantisation(torch.cat([part.step for part in parts]), torch.cat([part.zero for part in parts]))


def quantised_weight_sets(weight: Tensor, sets: int = WEIGHT_SETS) -> tuple[list[Tensor], Tensor]:
    """The weights of a convolution as integers: one int8 tensor for each set, and the step of each output.

    In each set, the sum of a channel's first weights along `_SNAKE_ORDER`, and so of all nine, is right to one step.
    The mean of each weight over all sets is right to 2/`sets` of a step.

    Args:
        weight: float32 [outputs, inputs, 3, 3].
        sets: number of sets; 1 rounds the sums to the nearest.

    Returns:
        int8 [outputs, inputs, 3, 3] for each set, from -127 to 127, and the steps, float32 [outputs].
    """
    outputs, inputs = weight.shape[:2]
    step = weight.abs().amax((1, 2, 3)).clamp(min=1e-30) / LARGEST_WEIGHT
    sums = (weight / step.view(-1, 1, 1, 1)).flatten(2).permute(2, 0, 1)[_SNAKE_ORDER].cumsum(0)
    threshold_offsets = torch.from_numpy(np.random.default_rng(0).integers(0, sets, (outputs, inputs)))
    weight_sets = []
    for index in range(sets):
        rounded_sums = torch.floor(sums + ((threshold_offsets + index) % sets + 0.5) / sets)
        rounded_sums[1:] -= rounded_sums[:-1].clone()
        integers = rounded_sums.clamp_(-LARGEST_WEIGHT, LARGEST_WEIGHT).to(torch.int8)[_SNAKE_PLACES]
        weight_sets.append(integers.permute(1, 2, 0).reshape(weight.shape))
    return weight_sets, step


def prepacked(weight: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
    """`weight` in the memory order that oneDNN needs for results of `size`; `convolve` takes it.

    oneDNN has one order for results of up to 6x6 pixels and another one for larger results. Weights in the wrong order
    are reordered in each call, which took a hundred times as long as such a small convolution. A strip of a larger
    image uses the order of the whole image.

    Args:
        weight: int8 [outputs, inputs, 3, 3].
        scale: float32 [outputs], as in `Int8Layer`.
        size: height and width of the convolution's result.
    """
    padded = [1, weight.shape[1], size[0] + 2, size[1] + 2]
    packed: Tensor = torch.ops.onednn.qconv_prepack(weight, scale, 1.0, 0, [1, 1], [0, 0], [1, 1], 1, padded)
    return packed


def convolve(padded: Tensor, layer: Int8Layer) -> Tensor:
    """The convolution of `padded`, uint8 [1, inputs, H + 2, W + 2]: float32 [1, outputs, H, W].

    oneDNN computes it. PyTorch has this operator for the quantised models of its own compiler.
    """
    result: Tensor = torch.ops.onednn.qconv_pointwise(
        padded, 1.0, 0, layer.weight, layer.scale, layer.weight_zeros, layer.bias,
        [1, 1], [0, 0], [1, 1], 1, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return result


@dataclass(frozen=True, slots=True)
class Int8Layer:
    """A convolution that reads bytes and computes float32.

    Attributes:
        weight: int8, from `prepacked`.
        scale: float32 [outputs], the value of 1 in a sum of integer products.
        bias: float32 [outputs], added after scaling.
        weight_zeros: int64 [outputs], zeros: the zero points of the weights, an argument of oneDNN's operator.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    weight_zeros: Tensor

    def __call__(self, padded: Tensor) -> Tensor:
        """See `convolve`."""
        return convolve(padded, self)


GatedPair = tuple[Layer, Layer] | tuple[Int8Layer, Int8Layer]
"""A gated convolution as two: the feature, in units of its steps, and the gate.

The two halves of a single convolution's result would not be contiguous.
"""


@dataclass(frozen=True, slots=True)
class WeightSet:
    """All layers but the first, with the weights of one set; `decoder` has the two convolutions of each level."""

    encoder: list[GatedPair]
    decoder: list[tuple[Int8Layer, Int8Layer]]
    head: Int8Layer


class Int8Weights:
    """All layers of the int8 network for one image, with all weight sets.

    Args:
        network: the network in float32, on the CPU.
        image: float32 [1, C, H, W]; its activations decide what bytes mean.
        specs: the network's masks; none for passes without masks.
        sets: number of weight sets.
        size: height and width of the images to predict; None for those of `image`.

    Attributes:
        finite: whether all weights and observed activations are finite. If not, `stem` and `weight_sets` are missing.
        sizes: height and width of each activation, by the name of the layer (`model.layers`) that produces it.
        quantisations: of the same activations, except the prediction.
        stem: the first convolution, in float32.
        weight_sets: the other convolutions.
    """

    def __init__(
        self,
        network: Self2SelfNet,
        image: Tensor,
        specs: Sequence[MaskSpec],
        sets: int,
        size: tuple[int, int] | None = None,
    ) -> None:
        # The stem is not one of bytes.
        inputs = {name: makers for name, makers in weighted_inputs(network.layers).items() if name != "stem"}
        height, width = image.shape[2:] if size is None else size
        self.sizes = {layer.name: (height // layer.stride, width // layer.stride) for layer in network.layers}
        ranges = ActivationRanges(network, image, specs, ["stem", *inputs])
        self.finite = ranges.is_finite() and all(bool(value.isfinite().all()) for value in network.parameters())
        self.quantisations: dict[str, Quantisation] = {}
        if not self.finite:
            return
        importance = _channel_importance(network, inputs, ranges)
        self.quantisations = {
            name: Quantisation.for_range(ranges.low[name], ranges.high[name], importance[name]) for name in importance
        }
        read = {
            name: Quantisation.joined([self.quantisations[producer] for producer in producers])
            for name, producers in inputs.items()
        }
        self.stem = _float_stem(network, self.quantisations["stem"].step)
        convolutions = {
            name: _quantised_convolutions(network, name, read[name], ranges.means[name], sets) for name in inputs
        }
        self.weight_sets = [
            _weight_set({name: each[index] for name, each in convolutions.items()}, self.quantisations, self.sizes)
            for index in range(sets)
        ]
        self.quantisations |= {f"decoder.{level}.joined": read[f"decoder_first.{level}"] for level in range(LEVELS)}


def _channel_importance(
    network: nn.Module, inputs: Mapping[str, Sequence[str]], ranges: ActivationRanges
) -> dict[str, Tensor]:
    """For each activation, the importance of its channels, float32 [C] in [0, 1].

    It is a channel's range times the RMS of its weights, relative to the largest such product of the convolution that
    reads the channel. If two convolutions read it, the larger importance counts.
    """
    importance: dict[str, Tensor] = {}
    for name, producers in inputs.items():
        weight, _ = parameters_of(network.get_submodule(name))
        spans = [ranges.span(producer) for producer in producers]
        effect = torch.cat(spans) * weight.square().mean(dim=(0, 2, 3)).sqrt()
        effect /= effect.max().clamp(min=1e-30)
        for producer, part in zip(producers, torch.split(effect, [len(span) for span in spans]), strict=True):
            known = importance.get(producer)
            importance[producer] = part if known is None else torch.maximum(known, part)
    return importance


def _float_stem(network: Self2SelfNet, unit: Tensor) -> GatedPair:
    """The first convolution in float32; its features are in units of `unit`, float32 [C]."""
    weight, bias = parameters_of(network.stem)
    half = len(unit)

    def layer(weight: Tensor, bias: Tensor) -> Layer:
        return Layer(weight.contiguous(memory_format=torch.channels_last), bias.contiguous())

    return layer(weight[:half] / unit.view(-1, 1, 1, 1), bias[:half] / unit), layer(weight[half:], bias[half:])


@dataclass(frozen=True, slots=True)
class _QuantisedConvolution:
    """A convolution in one weight set.

    Attributes:
        weight: int8 [outputs, inputs, 3, 3].
        scale: float32 [outputs], the value of 1 in a sum of integer products.
        bias: float32 [outputs], corrected for the rounding errors of `weight`.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def layer(self, size: tuple[int, int], unit: Tensor | float = 1.0, outputs: slice = slice(None)) -> Int8Layer:
        """The layer of some of the outputs.

        Args:
            size: height and width of the result.
            unit: the value of 1 in the result, float32 [outputs] or a number.
            outputs: indices of the outputs.
        """
        scale = self.scale[outputs] / unit
        weight = prepacked(self.weight[outputs].contiguous(), scale, size)
        return Int8Layer(weight, scale, self.bias[outputs] / unit, torch.zeros(len(scale), dtype=torch.int64))


def _quantised_convolutions(
    network: Self2SelfNet, name: str, read: Quantisation, mean: Tensor, sets: int
) -> list[_QuantisedConvolution]:
    """The convolution `name` in each weight set.

    Args:
        network: the network in float32.
        name: name of the convolution's module.
        read: quantisation of the activation that it reads.
        mean: float32 [inputs], mean of each channel of that activation.
        sets: number of weight sets.
    """
    weight, bias = parameters_of(network.get_submodule(name))
    # Dropout's scale of the kept activations is part of the weights.
    unit = read.step / network.decoder_keep if name.startswith("decoder") else read.step
    weight = weight * unit.view(1, -1, 1, 1)
    weight_sets, step = quantised_weight_sets(weight, sets)
    total = weight.sum(dim=(2, 3))
    convolutions = []
    for integers in weight_sets:
        rounded_total = integers.sum(dim=(2, 3), dtype=torch.float32) * step.view(-1, 1)
        # Two corrections: for the weights' rounding errors times the inputs' mean, and for the byte of the value 0.
        corrected = bias - (rounded_total - total) @ (mean / unit) - rounded_total @ read.zero
        convolutions.append(_QuantisedConvolution(integers, step, corrected))
    return convolutions


def _weight_set(
    convolutions: Mapping[str, _QuantisedConvolution],
    quantisations: Mapping[str, Quantisation],
    sizes: Mapping[str, tuple[int, int]],
) -> WeightSet:
    """The layers of one weight set; their results are in units of the steps of `quantisations`."""

    def gated(name: str) -> GatedPair:
        convolution, unit, size = convolutions[name], quantisations[name].step, sizes[name]
        half = len(unit)
        return convolution.layer(size, unit, slice(half)), convolution.layer(size, outputs=slice(half, None))

    def plain(name: str) -> Int8Layer:
        return convolutions[name].layer(sizes[name], quantisations[name].step)

    return WeightSet(
        [gated(f"encoder.{level}") for level in range(LEVELS + 1)],
        [(plain(f"decoder_first.{level}"), plain(f"decoder_second.{level}")) for level in range(LEVELS)],
        convolutions["head"].layer(sizes["head"]),
    )
