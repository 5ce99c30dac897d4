"""The plain loop: Self2Self+ written as directly as possible from the paper's description.

A gated convolution consists of two separate convolutions, ``F.dropout`` draws the decoder's masks inside the network,
tensors are contiguous, execution is eager, and the ensemble runs one pass at a time. The plain loop has two uses: the
tests of `self2self.model.network` compare with it, and it is the baseline of the benchmarks. Nothing in this module
may therefore be made faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from self2self.model.network import Self2SelfNet

SLOPE = 0.2
DEPTH = 5


def reflect_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3 convolution, stride 1, reflect padding 1."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=1, padding=1, padding_mode="reflect")


class PlainGatedConv(nn.Module):
    """LeakyReLU(conv_a(x)) * sigmoid(conv_b(x))."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_a = reflect_conv(inputs, outputs)
        self.conv_b = reflect_conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H, W]."""
        return F.leaky_relu(self.conv_a(x), SLOPE) * torch.sigmoid(self.conv_b(x))


class PlainSelf2Self(nn.Module):
    """The network with dropout inside, drawn anew in every pass.

    Args:
        channels: colour channels of the image.
        encoder_width: channels of every encoder level.
        decoder_widths: channels of the decoder levels, coarsest first.
        drop_rate: probability that ``F.dropout`` drops a decoder activation; always active.
    """

    def __init__(
        self,
        channels: int = 3,
        encoder_width: int = 48,
        decoder_widths: Sequence[int] = (96,) * DEPTH,
        drop_rate: float = 0.4,
    ) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.enter = PlainGatedConv(2 * channels, encoder_width)
        self.down = nn.ModuleList([PlainGatedConv(encoder_width, encoder_width) for _ in range(DEPTH + 1)])
        self.up_a = nn.ModuleList()
        self.up_b = nn.ModuleList()
        below = encoder_width
        for width in decoder_widths:
            self.up_a.append(reflect_conv(below + encoder_width, width))
            self.up_b.append(reflect_conv(width, width))
            below = width
        self.leave = reflect_conv(below, channels)

    @classmethod
    def from_network(cls, network: Self2SelfNet) -> PlainSelf2Self:
        """Copy the weights of `network`; each fused gated convolution becomes two convolutions."""
        plain = cls(network.channels, network.encoder_width, network.decoder_widths, 1.0 - network.decoder_keep)
        renamed: dict[str, Tensor] = {}
        for name, tensor in network.state_dict().items():
            part, _, kind = name.rpartition(".")
            if part.endswith(".conv"):
                gated = part.removesuffix(".conv").replace("stem", "enter").replace("encoder", "down")
                renamed[f"{gated}.conv_a.{kind}"], renamed[f"{gated}.conv_b.{kind}"] = tensor.chunk(2)
            else:
                for ours, theirs in (("decoder_first", "up_a"), ("decoder_second", "up_b"), ("head", "leave")):
                    part = part.replace(ours, theirs)
                renamed[f"{part}.{kind}"] = tensor
        plain.load_state_dict(renamed)
        return plain

    def forward(self, image: Tensor, input_mask: Tensor) -> Tensor:
        """Predict one pass.

        Args:
            image: float32 [1, C, H, W] in [0, 1]; H and W are multiples of 32 and at least 64.
            input_mask: float32 of the same shape; 1 keeps the pixel value.

        Returns:
            float32 [1, C, H, W], not clamped.
        """
        x = self.enter(torch.cat([input_mask, input_mask * image], dim=1))
        x = self.down[0](x)
        outputs = [x]
        for gated in self.down[1:]:
            x = gated(F.max_pool2d(x, kernel_size=2))
            outputs.append(x)
        for level, (conv_a, conv_b) in enumerate(zip(self.up_a, self.up_b, strict=True)):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = torch.cat([x, outputs[DEPTH - 1 - level]], dim=1)
            x = F.leaky_relu(conv_a(F.dropout(x, self.drop_rate, training=True)), SLOPE)
            x = F.leaky_relu(conv_b(F.dropout(x, self.drop_rate, training=True)), SLOPE)
        prediction: Tensor = self.leave(x)
        return prediction


@torch.no_grad()
def plain_ensemble(
    network: PlainSelf2Self, image: Tensor, passes: int, input_drop_rate: float = 0.4, clamp: bool = True
) -> Tensor:
    """Average `passes` stochastic passes, which run one at a time with torch's global random generator.

    Args:
        network: the plain network, on the device of `image`.
        image: float32 [1, C, H, W] in [0, 1].
        passes: number of passes.
        input_drop_rate: probability that a pixel value is hidden from the network.
        clamp: whether the mean is clamped to [0, 1].

    Returns:
        float32 [1, C, H, W].
    """
    total = torch.zeros_like(image, dtype=torch.float64)
    for _ in range(passes):
        input_mask = torch.bernoulli(torch.full_like(image, 1.0 - input_drop_rate))
        total += network(image, input_mask)
    mean = (total / passes).float()
    return mean.clamp(0.0, 1.0) if clamp else mean
