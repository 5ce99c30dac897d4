"""The layers of the network in integers of 8 bits, made for one image; `integers` runs them.

Activations are bytes. Each channel has a step and a zero of its own, which come from what the float32 network computes
for the image (`ranges`), so that its range takes all 256 values. The steps are folded into the weights of the
convolution that reads them and of the one that makes them: a leaky ReLU lets a channel be scaled before it. Where a
channel matters little to what reads it, its step is larger, which leaves finer steps to the weights of the others (in
the manner of SmoothQuant, Xiao et al. 2022).

Weights have 127 steps up and down for each output. Rounding them one by one would err most where nine neighbours of an
image, which are nearly equal, are summed. So the running sum over the nine is rounded, and its differences are taken:
what one weight loses, the next gains (error diffusion, Floyd and Steinberg 1976). What is left goes up in some of ten
sets of weights and down in the others, of which passes take turns, as with bfloat16 (`rounded`); and what it makes of
the mean of the inputs is taken off the bias.

The first convolution stays in float32: the image that it reads may have more than 8 bits.
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
from self2self.runtime.engines.torch_cpu.bf16_network import SETS, Layer, parameters_of
from self2self.runtime.engines.torch_cpu.calibration import ActivationRanges

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet

LARGEST_BYTE, LARGEST_WEIGHT = 255, 127
_MARGIN = 1.25
"""Times the range that was seen: passes with other masks go beyond it (dev/log)."""
_LEVELLING = 0.25
"""Exponent by which the step of a channel grows as it matters less (dev/log)."""
_MATTERS_LEAST = 1e-3
"""How much a channel matters at least, in units of the one that matters most: it bounds the steps."""
_SNAKE = [0, 1, 2, 5, 4, 3, 6, 7, 8]
"""The nine weights of a channel in the order in which each hands its error to a neighbour."""
_BACK = [_SNAKE.index(place) for place in range(len(_SNAKE))]


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How the channels of an activation are stored in bytes.

    Attributes:
        step: float32 [C], between two neighbouring bytes.
        zero: float32 [C], the byte of 0.
    """

    step: Tensor
    zero: Tensor

    @classmethod
    def for_range(cls, low: Tensor, high: Tensor, matters: Tensor) -> Quantisation:
        """Steps that hold a range, and `_MARGIN` times as much.

        Args:
            low: [C], at most 0.
            high: [C], at least 0.
            matters: [C], how much the channels do to what reads them, from 0 to 1 for the one that matters most.
        """
        step = _MARGIN / LARGEST_BYTE * (high - low)
        # A channel that is 0 everywhere needs a step, too.
        step = step.clamp(min=max(1e-6 * float(step.max()), 1e-30)) * matters.clamp(min=_MATTERS_LEAST) ** -_LEVELLING
        # The middle of the range is the middle of the bytes.
        return cls(step, torch.round((LARGEST_BYTE - (low + high) / step) / 2))

    @staticmethod
    def joined(parts: Sequence[Quantisation]) -> Quantisation:
        """Those of a concatenation along the channels."""
        return Quantisation(torch.cat([part.step for part in parts]), torch.cat([part.zero for part in parts]))


def rounded_weights(weight: Tensor, sets: int = SETS) -> tuple[list[Tensor], Tensor]:
    """Weights as integers, int8, of each set, and the step of each output, float32 [outputs].

    In each set the sum of a channel's first weights along `_SNAKE`, and so of all nine, is right to a step; over
    all sets each weight is right on average to two `sets`-ths of it.

    Args:
        weight: float32 [outputs, inputs, 3, 3].
        sets: how many there are; 1 rounds the sums to the nearest.
    """
    outputs, inputs = weight.shape[:2]
    step = weight.abs().amax((1, 2, 3)).clamp(min=1e-30) / LARGEST_WEIGHT
    sums = (weight / step.view(-1, 1, 1, 1)).flatten(2).permute(2, 0, 1)[_SNAKE].cumsum(0)
    starts = torch.from_numpy(np.random.default_rng(0).integers(0, sets, (outputs, inputs)))
    made = []
    for index in range(sets):
        floors = torch.floor(sums + ((starts + index) % sets + 0.5) / sets)
        floors[1:] -= floors[:-1].clone()
        integers = floors.clamp_(-LARGEST_WEIGHT, LARGEST_WEIGHT).to(torch.int8)[_BACK]
        made.append(integers.permute(1, 2, 0).reshape(weight.shape))
    return made, step


def packed(weight: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
    """`weight`, int8 [outputs, inputs, 3, 3], in the memory order that `convolve` takes for results of `size`.

    Up to 6x6 pixels it is another one than above; putting weights in order took a hundred times as long as such a
    convolution. A part of the rows of a larger image takes the order of the whole.
    """
    padded = [1, weight.shape[1], size[0] + 2, size[1] + 2]
    laid_out: Tensor = torch.ops.onednn.qconv_prepack(weight, scale, 1.0, 0, [1, 1], [0, 0], [1, 1], 1, padded)
    return laid_out


def convolve(padded: Tensor, layer: Int8Layer) -> Tensor:
    """The convolution of `padded`, bytes [1, inputs, H + 2, W + 2]: float32 [1, outputs, H, W].

    By oneDNN, through an operator that PyTorch has for what its own compiler makes of quantised models.
    """
    convolved: Tensor = torch.ops.onednn.qconv_pointwise(
        padded, 1.0, 0, layer.weight, layer.scale, layer.no_zeros, layer.bias,
        [1, 1], [0, 0], [1, 1], 1, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return convolved


@dataclass(frozen=True, slots=True)
class Int8Layer:
    """A convolution of bytes.

    Attributes:
        weight: from `packed`.
        scale: float32 [outputs], what a sum of products is worth.
        bias: float32 [outputs].
        no_zeros: int64 [outputs], which the operator asks for.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    no_zeros: Tensor

    def __call__(self, padded: Tensor) -> Tensor:
        """As `convolve`."""
        return convolve(padded, self)


Gated = tuple[Layer, Layer] | tuple[Int8Layer, Int8Layer]
"""Feature, in units of its steps, and gate; as one convolution, the halves of its result would not be contiguous."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A set of weights; `decoder` has the two convolutions of each level."""

    encoder: list[Gated]
    decoder: list[tuple[Int8Layer, Int8Layer]]
    head: Int8Layer


class Int8Weights:
    """All that passes over an image need.

    Args:
        network: float32, on the CPU.
        image: float32 [1, C, H, W].
        specs: of the network's masks.
        sets: of weights.

    Attributes:
        finite: whether the network has numbers only; otherwise there is nothing else.
        sizes: height and width of the activation that each layer of `model.layers` makes, by the layer's name.
        steps: of the same activations, but for the last.
        stem: the first convolution.
        sets: of the others.
    """

    def __init__(self, network: Self2SelfNet, image: Tensor, specs: Sequence[MaskSpec], sets: int) -> None:
        # The stem is not one of bytes.
        inputs = {name: makers for name, makers in weighted_inputs(network.layers).items() if name != "stem"}
        height, width = image.shape[2:]
        self.sizes = {layer.name: (height // layer.stride, width // layer.stride) for layer in network.layers}
        ranges = ActivationRanges(network, image, specs, ["stem", *inputs])
        self.finite = ranges.is_finite() and all(bool(value.isfinite().all()) for value in network.parameters())
        self.steps: dict[str, Quantisation] = {}
        if not self.finite:
            return
        matters = _how_much_channels_matter(network, inputs, ranges)
        self.steps = {
            name: Quantisation.for_range(ranges.low[name], ranges.high[name], matters[name]) for name in matters
        }
        read = {name: Quantisation.joined([self.steps[maker] for maker in makers]) for name, makers in inputs.items()}
        self.stem = _float_gated(network, self.steps["stem"].step)
        made = {name: _rounded(network, name, read[name], ranges.means[name], sets) for name in inputs}
        self.sets = [
            _layers({name: of[index] for name, of in made.items()}, self.steps, self.sizes) for index in range(sets)
        ]
        self.steps |= {f"decoder.{level}.joined": read[f"decoder_first.{level}"] for level in range(LEVELS)}


def _how_much_channels_matter(
    network: nn.Module, inputs: Mapping[str, Sequence[str]], ranges: ActivationRanges
) -> dict[str, Tensor]:
    """For each activation, range times weight (RMS) of its channels, in units of the largest in what reads them."""
    matters: dict[str, Tensor] = {}
    for name, makers in inputs.items():
        weight, _ = parameters_of(network.get_submodule(name))
        spans = [ranges.span(maker) for maker in makers]
        effect = torch.cat(spans) * weight.square().mean(dim=(0, 2, 3)).sqrt()
        effect /= effect.max().clamp(min=1e-30)
        for maker, part in zip(makers, torch.split(effect, [len(span) for span in spans]), strict=True):
            matters[maker] = torch.maximum(matters[maker], part) if maker in matters else part
    return matters


def _float_gated(network: Self2SelfNet, unit: Tensor) -> Gated:
    """The stem, whose features are in units of `unit`."""
    weight, bias = parameters_of(network.stem)
    half = len(unit)

    def layer(weight: Tensor, bias: Tensor) -> Layer:
        return Layer(weight.contiguous(memory_format=torch.channels_last), bias.contiguous())

    return layer(weight[:half] / unit.view(-1, 1, 1, 1), bias[:half] / unit), layer(weight[half:], bias[half:])


@dataclass(frozen=True, slots=True)
class _Rounded:
    """A convolution in a set: its integers, what a sum of products is worth, and the bias that belongs to them."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def layer(self, size: tuple[int, int], unit: Tensor | float = 1.0, outputs: slice = slice(None)) -> Int8Layer:
        """Some of the outputs, in units of `unit`, for results of `size`."""
        scale = self.scale[outputs] / unit
        weight = packed(self.weight[outputs].contiguous(), scale, size)
        return Int8Layer(weight, scale, self.bias[outputs] / unit, torch.zeros(len(scale), dtype=torch.int64))


def _rounded(network: Self2SelfNet, name: str, read: Quantisation, mean: Tensor, sets: int) -> list[_Rounded]:
    """The convolution `name` in each set; `read` and `mean` are those of what it reads."""
    weight, bias = parameters_of(network.get_submodule(name))
    # What is kept is scaled by the weights, not by the mask.
    unit = read.step / network.decoder_keep if name.startswith("decoder") else read.step
    weight = weight * unit.view(1, -1, 1, 1)
    of_sets, step = rounded_weights(weight, sets)
    total = weight.sum(dim=(2, 3))
    made = []
    for integers in of_sets:
        rounded_total = integers.sum(dim=(2, 3), dtype=torch.float32) * step.view(-1, 1)
        # Bytes are more than what they stand for, by the byte of 0.
        corrected = bias - (rounded_total - total) @ (mean / unit) - rounded_total @ read.zero
        made.append(_Rounded(integers, step, corrected))
    return made


def _layers(
    rounded: Mapping[str, _Rounded], steps: Mapping[str, Quantisation], sizes: Mapping[str, tuple[int, int]]
) -> Layers:
    """A set of weights; what a layer makes is in units of `steps`."""

    def gated(name: str) -> Gated:
        unit, size = steps[name].step, sizes[name]
        half = len(unit)
        return rounded[name].layer(size, unit, slice(half)), rounded[name].layer(size, outputs=slice(half, None))

    def plain(name: str) -> Int8Layer:
        return rounded[name].layer(sizes[name], steps[name].step)

    return Layers(
        [gated(f"encoder.{level}") for level in range(LEVELS + 1)],
        [(plain(f"decoder_first.{level}"), plain(f"decoder_second.{level}")) for level in range(LEVELS)],
        rounded["head"].layer(sizes["head"]),
    )
