"""Define the Self2Self+ network: a gated U-Net that takes its dropout masks as arguments.

Training, export and the reference engine all use this one definition. Every convolution is 3x3
with reflect padding. The encoder has one full-resolution level, then five 2x2 max-poolings, and
uses gated convolutions. Each decoder level upsamples, concatenates the skip connection and
convolves twice, with element-wise dropout before each of the ten convolutions.

Without masks the network is deterministic: nothing is hidden or dropped, and nothing is scaled.

The network differs from the official formulation in two ways, and equals it to rounding. The
official gated convolution has two convolutions that read the same input; here one convolution with
twice the channels computes both. And the caller's boolean masks replace ``F.dropout``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from self2self.model.layers import LEVELS, NEGATIVE_SLOPE, network_layers


class Conv3x3(nn.Conv2d):
    """3x3 convolution with reflect padding that keeps height and width; its weights start uninitialised."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, padding_mode="reflect")

    def reset_parameters(self) -> None:
        """Do nothing, because `initialise` draws the weights, without the global generator, which is the caller's."""


class GatedConv(nn.Module):
    """LeakyReLU(a) * sigmoid(b), where a and b are the two halves of one convolution's output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv3x3(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H, W]."""
        feature, gate = self.conv(x).chunk(2, dim=1)
        return F.leaky_relu(feature, NEGATIVE_SLOPE) * torch.sigmoid(gate)


class Self2SelfNet(nn.Module):
    """Self2Self+ network; `initialise` draws its weights with the paper's scheme and seed 0.

    Args:
        channels: colour channels of the image.
        encoder_width: channels of every encoder level; 48 in the paper.
        decoder_widths: channels of the decoder levels, coarsest first; five times 96 in the paper.
        decoder_keep: keep probability of the decoder's masks. Kept activations are multiplied by
            its inverse; pixel values that the input mask keeps are not.
    """

    def __init__(
        self,
        channels: int = 3,
        encoder_width: int = 48,
        decoder_widths: Sequence[int] = (96, 96, 96, 96, 96),
        decoder_keep: float = 0.6,
    ) -> None:
        super().__init__()
        self.layers = network_layers(channels, encoder_width, decoder_widths)
        self.channels = channels
        self.encoder_width = encoder_width
        self.decoder_widths = tuple(decoder_widths)
        self.decoder_keep = decoder_keep

        widths = {layer.name: (layer.inputs, layer.outputs) for layer in self.layers}
        self.stem = GatedConv(*widths["stem"])
        self.encoder = nn.ModuleList(GatedConv(*widths[f"encoder.{level}"]) for level in range(LEVELS + 1))
        self.decoder_first = nn.ModuleList(Conv3x3(*widths[f"decoder_first.{level}"]) for level in range(LEVELS))
        self.decoder_second = nn.ModuleList(Conv3x3(*widths[f"decoder_second.{level}"]) for level in range(LEVELS))
        self.head = Conv3x3(*widths["head"])
        initialise(self, "normal", torch.Generator().manual_seed(0))

    def forward(self, image: Tensor, input_mask: Tensor | None = None, *dropout_masks: Tensor) -> Tensor:
        """Run one stochastic pass for each mask of the batch, or without masks a deterministic one for each image.

        Args:
            image: [1 or N, C, H, W] in [0, 1]; H and W are multiples of 32 and at least 64.
            input_mask: bool [N, C, H, W]; True keeps the pixel. None for no masks at all.
            dropout_masks: ten bool tensors [N, c, H/s, W/s], coarsest level first; True keeps
                the activation (shapes: `contract.mask_specs`).

        Returns:
            [N, C, H, W] in the type of `image`; not clamped.
        """
        kept = torch.ones_like(image) if input_mask is None else input_mask.to(image.dtype)
        x = self.stem(torch.cat([kept, kept * image], dim=1))
        skips = []
        for level, block in enumerate(self.encoder):
            if level:
                x = F.max_pool2d(x, 2)
            x = block(x)
            skips.append(x)
        x = skips.pop()
        for index, (first, second) in enumerate(zip(self.decoder_first, self.decoder_second, strict=True)):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = torch.cat([x, skips.pop()], dim=1)
            for number, convolution in ((2 * index, first), (2 * index + 1, second)):
                if input_mask is not None:
                    x = self._dropout(x, dropout_masks[number])
                x = F.leaky_relu(convolution(x), NEGATIVE_SLOPE)
        prediction: Tensor = self.head(x)
        return prediction

    def _dropout(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * (mask.to(x.dtype) * (1.0 / self.decoder_keep))


def to_channels_last(network: Self2SelfNet, device: torch.device) -> Self2SelfNet:
    """Move `network` to `device` and its weights to the channels-last layout, in which convolutions are fastest."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def initialise(network: Self2SelfNet, scheme: str, generator: torch.Generator) -> None:
    """Draw all weights anew and set all biases to zero.

    Args:
        network: changed in place.
        scheme: ``"normal"`` is N(0, 0.02) as in the official code; ``"kaiming"`` is He's fan-in
            normal distribution for LeakyReLU, with which a network learns from the first step.
        generator: source of the random numbers, on the CPU.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            if scheme == "normal":
                module.weight.normal_(0.0, 0.02, generator=generator)
            else:
                nn.init.kaiming_normal_(module.weight, NEGATIVE_SLOPE, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
