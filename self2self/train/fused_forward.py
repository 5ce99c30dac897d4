"""Computes the network on a CPU, for training steps and predictions: the same function and gradients in less time.

Between any two convolutions autograd stores and traverses the activations of every operator: mask, scale, product,
upsampling, concatenation and padding, and as many on the way back. Here all of these are one function with its own
derivative (`model.channels_last`). Activations and products may be bfloat16, on CPUs that multiply it faster. Weights
and their gradients are always float32, and so are the first and the last convolution, which read and write pixels:
bfloat16 keeps 8 bits of them, which cost up to 0.1 dB of an image with weak noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from self2self.machine.system import multiplies_bfloat16
from self2self.model.channels_last import apply_mask, as_factors, fold_border, pad_and_join
from self2self.model.layers import LEVELS, NEGATIVE_SLOPE
from self2self.model.network import Self2SelfNet
from self2self.train.recipes import Recipe


def fastest_forward(network: Self2SelfNet, recipe: Recipe) -> Callable[..., Tensor]:
    """The fastest forward pass of `network` on its device: a `FusedTrainingForward` on a CPU, otherwise the network.

    Args:
        network: already on the device where it will run.
        recipe: decides whether products may be rounded to bfloat16.
    """
    if next(network.parameters()).device.type != "cpu":
        return network
    rounds = recipe.rounds_products and multiplies_bfloat16()
    return FusedTrainingForward(network, torch.bfloat16 if rounds else torch.float32)


class FusedTrainingForward:
    """The forward pass of a `Self2SelfNet` on the CPU, with fused operators between convolutions.

    Args:
        network: gives the parameters, and gets their gradients.
        dtype: type of activations and products between the first and the last convolution: float32 or bfloat16.
    """

    def __init__(self, network: Self2SelfNet, dtype: torch.dtype = torch.float32) -> None:
        self._network = network
        self._dtype = dtype

    def __call__(self, image: Tensor, input_mask: Tensor | None = None, *dropout_masks: Tensor) -> Tensor:
        """As `Self2SelfNet.forward`; the prediction is float32 whatever `dtype` is."""
        network = self._network
        kept = torch.ones_like(image) if input_mask is None else input_mask.to(image.dtype)
        x = self._gated(network.stem.conv, torch.cat([kept, kept * image], dim=1)).to(self._dtype)
        skips = []
        for level, block in enumerate(network.encoder):
            if level:
                x = F.max_pool2d(x, 2)
            x = self._gated(block.conv, x)  # type: ignore[arg-type]
            skips.append(x)
        x = skips.pop()
        # The weights carry the dropout scale, so that a mask's factors are 0 and 1.
        scale = 1.0 if input_mask is None else 1.0 / network.decoder_keep
        for level in range(LEVELS):
            parts = ((network.decoder_first[level], skips.pop()), (network.decoder_second[level], None))
            for number, (convolution, skip) in enumerate(parts, 2 * level):
                factors = None if input_mask is None else as_factors(dropout_masks[number], self._dtype)
                padded = _convolution_input(factors, x, skip)
                x = F.leaky_relu_(self._convolved(convolution, padded, scale), NEGATIVE_SLOPE)
        return self._convolved(network.head, _convolution_input(None, x.float()))

    def _convolved(self, convolution: torch.nn.Module, padded: Tensor, scale: float = 1.0) -> Tensor:
        """Convolve an input that has its border already, with weights times `scale`."""
        weight, bias = self.parameters_of(convolution)
        return _convolve(padded, (weight * scale).to(padded.dtype), bias.to(padded.dtype))

    def _gated(self, convolution: torch.nn.Module, x: Tensor) -> Tensor:
        """A gated convolution, computed as two.

        The halves of one convolution's output would not be contiguous, and operators on them take ten times as long.
        """
        padded = _convolution_input(None, x)
        weight, bias = (parameter.to(padded.dtype) for parameter in self.parameters_of(convolution))
        halves = zip(weight.chunk(2), bias.chunk(2, dim=-1), strict=True)
        feature, gate = (_convolve(padded, *half) for half in halves)
        return F.leaky_relu_(feature, NEGATIVE_SLOPE) * gate.sigmoid_()

    def parameters_of(self, convolution: torch.nn.Module) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution; a subclass may return a bias for each sample, [N, outputs]."""
        weight, bias = convolution.parameters()
        return weight, bias


def _convolve(padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve an input that has its border already.

    Args:
        padded: [N, inputs, H + 2, W + 2].
        weight: [outputs, inputs, 3, 3].
        bias: [outputs], or one for each sample, [N, outputs].
    """
    if bias.dim() == 1:
        return F.conv2d(padded, weight, bias)
    return F.conv2d(padded, weight).add_(bias[:, :, None, None])


def _convolution_input(factors: Tensor | None, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """The input of a convolution: `x`, upsampled and joined with `skip` where there is one, masked and padded.

    Args:
        factors: the mask as factors of x's type; None without a mask.
        x: [N, c, h, w], the activation of the level below, or of the same level.
        skip: [N, s, 2h, 2w], the skip connection; None without one.
    """
    padded: Tensor = _ConvolutionInput.apply(factors, x, skip)  # type: ignore[no-untyped-call]
    return padded


class _ConvolutionInput(torch.autograd.Function):
    """`_convolution_input` with its derivative."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor | None, x: Tensor, skip: Tensor | None) -> Tensor:
        ctx.save_for_backward(factors)
        ctx.joined = skip is not None
        ctx.x_channels = x.shape[1]
        parts = (x,) if skip is None else (F.interpolate(x, scale_factor=2.0, mode="nearest"), skip)
        return pad_and_join(parts, factors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor | None]:
        (factors,) = ctx.saved_tensors
        # `fold_border` may work in place: the convolution made this gradient for this function alone.
        inner = fold_border(gradient)

        def masked(channels: slice) -> Tensor:
            if factors is None:
                return inner[:, channels].contiguous(memory_format=torch.channels_last)
            return apply_mask(inner[:, channels], factors[:, channels])

        if not ctx.joined:
            return None, masked(slice(None)), None
        # Upsampling made four values of one, so the gradient is their sum.
        x_gradient = F.avg_pool2d(masked(slice(None, ctx.x_channels)), 2, divisor_override=1)
        return None, x_gradient, masked(slice(ctx.x_channels, None))
