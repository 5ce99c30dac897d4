"""The network for the steps of a fit, and looks at it, on a CPU: the same function and gradients in less time.

Autograd keeps and goes over the activations of every operator: mask, scale, product, upsampling, concatenation and
padding between any two convolutions, and as many on the way back. Here all of that is one function with a derivative of
its own (`channels_last`). It also runs in bfloat16, where a CPU multiplies matrices of it; weights and their gradients
are float32 in any case.
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
    """What computes `network` fastest on its device: itself on a GPU, on a CPU a `FusedTrainingForward`.

    Args:
        network: in its place.
        recipe: tells whether products may be rounded to bfloat16.
    """
    if next(network.parameters()).device.type != "cpu":
        return network
    rounds = recipe.rounds_products and multiplies_bfloat16()
    return FusedTrainingForward(network, torch.bfloat16 if rounds else torch.float32)


class FusedTrainingForward:
    """Computes what a `Self2SelfNet` on the CPU computes, with its parameters.

    Args:
        network: gets the gradients.
        dtype: of activations and products: float32, or bfloat16.
    """

    def __init__(self, network: Self2SelfNet, dtype: torch.dtype = torch.float32) -> None:
        self._network = network
        self._dtype = dtype

    def __call__(self, image: Tensor, input_mask: Tensor, *dropout_masks: Tensor) -> Tensor:
        """As `Self2SelfNet.forward`; float32."""
        network = self._network
        kept = input_mask.to(image.dtype)
        x = torch.cat([kept, kept * image], dim=1).to(self._dtype)
        x = self._gated(network.stem.conv, x)
        skips = []
        for level, block in enumerate(network.encoder):
            if level:
                x = F.max_pool2d(x, 2)
            x = self._gated(block.conv, x)  # type: ignore[arg-type]
            skips.append(x)
        x = skips.pop()
        # What is kept is scaled by the weights, not by the mask.
        scale = 1.0 / network.decoder_keep
        for level in range(LEVELS):
            parts = ((network.decoder_first[level], skips.pop()), (network.decoder_second[level], None))
            for mask, (convolution, skip) in zip(dropout_masks[2 * level : 2 * level + 2], parts, strict=True):
                padded = _convolution_input(as_factors(mask, self._dtype), x, skip)
                x = F.leaky_relu_(self._convolved(convolution, padded, scale), NEGATIVE_SLOPE)
        return self._convolved(network.head, _convolution_input(None, x)).float()

    def _convolved(self, convolution: torch.nn.Module, padded: Tensor, scale: float = 1.0) -> Tensor:
        weight, bias = convolution.parameters()
        return F.conv2d(padded, (weight * scale).to(self._dtype), bias.to(self._dtype))

    def _gated(self, convolution: torch.nn.Module, x: Tensor) -> Tensor:
        """As two convolutions: halves of one's result are not contiguous, and take ten times as long to go over."""
        padded = _convolution_input(None, x)
        pairs = (parameter.to(self._dtype).chunk(2) for parameter in convolution.parameters())
        feature, gate = (F.conv2d(padded, weight, bias) for weight, bias in zip(*pairs, strict=True))
        return F.leaky_relu_(feature, NEGATIVE_SLOPE) * gate.sigmoid_()


def _convolution_input(factors: Tensor | None, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """What a convolution sees of `x`, which is upsampled where there is a skip connection beside it."""
    seen: Tensor = _ConvolutionInput.apply(factors, x, skip)  # type: ignore[no-untyped-call]
    return seen


class _ConvolutionInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factors: Tensor | None, x: Tensor, skip: Tensor | None) -> Tensor:
        ctx.save_for_backward(factors)
        ctx.joined = skip is not None
        ctx.below = x.shape[1]
        parts = (x,) if skip is None else (F.interpolate(x, scale_factor=2.0, mode="nearest"), skip)
        return pad_and_join(parts, factors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor | None]:
        (factors,) = ctx.saved_tensors
        # It was made for this function alone, by the convolution that saw the frame.
        inner = fold_border(gradient)
        if factors is None:
            return None, inner.contiguous(memory_format=torch.channels_last), None
        if not ctx.joined:
            return None, apply_mask(inner, factors), None
        below, beside = slice(None, ctx.below), slice(ctx.below, None)
        # Upsampling made four of one.
        x = F.avg_pool2d(apply_mask(inner[:, below], factors[:, below]), 2, divisor_override=1)
        return None, x, apply_mask(inner[:, beside], factors[:, beside])
