"""The network for a GPU with tensor cores: cuDNN's convolutions, and one custom kernel between two of them.

If PyTorch runs the network operator by operator, a fast GPU spends most of a pass on reading and writing activations:
bias, activation function, mask, concatenation and padding each read and write all of them, and reflect padding changes
the memory order that tensor cores need. Here a single kernel does all of that (`kernels.cu`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from self2self.model.layers import LEVELS
from self2self.runtime.engines.torch_cuda.nvrtc import Launcher

if TYPE_CHECKING:
    import torch

    from self2self.model.network import Self2SelfNet

THREADS_PER_BLOCK = 256
LARGEST_CHANNEL_GROUP = 8
"""Largest number of channels for one thread: 16 bytes in half precision."""
KERNELS = "kernels.cu"
CHANNEL_MULTIPLE = 8
"""Tensor cores need multiples of so many channels. Those of the input and the prediction are padded with zeros."""


def kernel_macros(network: Self2SelfNet, dtype: torch.dtype) -> dict[str, int]:
    """Names and values of the macros with which `KERNELS` is compiled for `network` in `dtype`."""
    import torch

    group = math.gcd(LARGEST_CHANNEL_GROUP, network.encoder_width, *network.decoder_widths)
    types = {torch.float16: {"T_HALF": 1}, torch.bfloat16: {"T_BFLOAT16": 1}}
    return {"V": group, **types.get(dtype, {})}


class FusedNetwork:
    """`Self2SelfNet` with fused operations, for batches of passes over one image.

    Args:
        network: the network in float32, on any device.
        dtype: type of weights and activations: float32, float16 or bfloat16. Sums are float32.
        device: PyTorch's name of the device.
        kernels: `KERNELS`, compiled with `kernel_macros`.
    """

    def __init__(self, network: Self2SelfNet, dtype: torch.dtype, device: str, kernels: Launcher) -> None:
        import torch

        self._kernels = kernels
        self._dtype, self._device = dtype, device
        self._group = kernel_macros(network, dtype)["V"]
        self._channels, self._encoder_width = network.channels, network.encoder_width

        def layer(convolution: torch.nn.Module, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
            weight, bias = (tensor.detach() for tensor in convolution.parameters())
            return self._on_device(weight * scale), bias.to(device, torch.float32)

        def zero_padded(weight: torch.Tensor, outputs: int, inputs: int) -> torch.Tensor:
            result = weight.new_zeros((outputs, inputs, *weight.shape[2:]))
            result[: weight.shape[0], : weight.shape[1]] = weight
            return result

        stem, stem_bias = (tensor.detach() for tensor in network.stem.conv.parameters())
        self._input_channels = -(-stem.shape[1] // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE
        stem = zero_padded(stem, len(stem), self._input_channels)
        self._stem = self._on_device(stem), stem_bias.to(device, torch.float32)
        self._encoder = [layer(block.conv) for block in network.encoder]  # type: ignore[arg-type]
        # Dropout's scale of the kept activations is part of the weights.
        scale = 1.0 / network.decoder_keep
        self._decoder = [
            (layer(first, scale), layer(second, scale))
            for first, second in zip(network.decoder_first, network.decoder_second, strict=True)
        ]
        head, head_bias = (tensor.detach() for tensor in network.head.parameters())
        self._output_channels = -(-len(head) // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE
        head = zero_padded(head, self._output_channels, head.shape[1])
        self._head = self._on_device(head), head_bias.to(device, torch.float32)

    def _on_device(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        return weight.to(self._device, self._dtype, memory_format=torch.channels_last)

    def __call__(self, image: torch.Tensor, masks: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute one pass for each mask of the batch, on PyTorch's current stream.

        Args:
            image: float32 [1, C, H, W], contiguous.
            masks: bool [N, ...], as for `Self2SelfNet`, in the memory format channels last.

        Returns:
            float32 [N, C, H, W].
        """
        import torch

        input_mask, *dropout_masks = masks
        count, _, height, width = input_mask.shape
        inner = self._encoder_width
        padded = self._empty(count, self._input_channels, height + 2, width + 2)
        channels = self._channels, self._input_channels
        self._launch("enter", (width, height, count), image, input_mask, padded, height, width, *channels)
        raw, bias = self._convolved(padded, self._stem)
        padded = self._empty(count, inner, height + 2, width + 2)
        self._launch_grouped("gate_padded", (width, height, count), inner, raw, bias, padded, height, width, inner)
        skips = []
        for weights in self._encoder[:LEVELS]:
            raw, bias = self._convolved(padded, weights)
            skips.append(self._empty(count, inner, height, width))
            height, width = height // 2, width // 2
            padded = self._empty(count, inner, height + 2, width + 2)
            size = (width, height, count)
            self._launch_grouped("gate_pooled", size, inner, raw, bias, skips[-1], padded, height, width, inner)
        raw, bias = self._convolved(padded, self._encoder[LEVELS])
        below = self._empty(count, inner, height, width)
        self._launch_grouped("gate_plain", (width, height, count), inner, raw, bias, below, height, width, inner)
        # `below` of the deepest level already has bias and activation. On the other levels `join` applies them.
        below_bias: torch.Tensor | None = None
        for level, (first, second) in enumerate(self._decoder):
            skip = skips.pop()
            padded = self._joined(below, below_bias, skip, dropout_masks[2 * level])
            below, below_bias = self._convolved(padded, first)
            padded = self._joined(below, below_bias, None, dropout_masks[2 * level + 1])
            below, below_bias = self._convolved(padded, second)
        raw, bias = self._convolved(self._joined(below, below_bias, None, None), self._head)
        height, width = image.shape[2:]
        prediction = torch.empty((count, self._channels, height, width), device=self._device)
        channels = self._channels, self._output_channels
        self._launch("leave", (width, height, count), raw, bias, prediction, height, width, *channels)
        return prediction

    def _joined(
        self,
        below: torch.Tensor,
        bias: torch.Tensor | None,
        skip: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The padded input of a decoder convolution.

        Args:
            below: result of the convolution before, [N, C, H, W], or [N, C, H / 2, W / 2] with a skip connection.
            bias: bias of that convolution; None if `below` already has bias and activation.
            skip: the skip connection, [N, C, H, W].
            mask: bool, for the channels of both; None keeps everything.
        """
        count, below_channels, height, width = below.shape
        skip_channels = 0
        if skip is not None:
            _, skip_channels, height, width = skip.shape
        channels = below_channels + skip_channels
        padded = self._empty(count, channels, height + 2, width + 2)
        self._launch_grouped(
            "join",
            (width, height, count),
            channels,
            *(below, bias, skip, mask, padded),
            *(height, width, below_channels, skip_channels, int(skip is not None)),
        )
        return padded

    @staticmethod
    def _convolved(
        padded: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The convolution's result without the bias, and the bias."""
        import torch

        return torch.nn.functional.conv2d(padded, weights[0]), weights[1]

    def _empty(self, count: int, channels: int, height: int, width: int) -> torch.Tensor:
        import torch

        shape = (count, channels, height, width)
        return torch.empty(shape, dtype=self._dtype, device=self._device, memory_format=torch.channels_last)

    def _launch_grouped(self, name: str, size: tuple[int, int, int], channels: int, *arguments: Any) -> None:
        """Launch kernel `name` with a thread for each group of channels of each pixel; `size` as for `_launch`."""
        width, height, count = size
        self._launch(name, (width * (channels // self._group), height, count), *arguments)

    def _launch(self, name: str, size: tuple[int, int, int], *arguments: Any) -> None:
        """Launch kernel `name`; `size` is the number of threads for a row, of rows, and of passes."""
        threads, rows, count = size
        block = min(THREADS_PER_BLOCK, -(-threads // 32) * 32)
        self._kernels.launch(name, (-(-threads // block), rows, count), block, arguments)
