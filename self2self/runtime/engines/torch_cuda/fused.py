"""The network for a GPU with tensor cores: convolutions by cuDNN, and all between them by kernels of our own.

PyTorch runs the network operator by operator, and on a fast GPU a pass then spends most of its time on reading and
writing activations: bias, activation, mask, concatenation and padding each pass over them, and reflect padding
brings them out of the order in which tensor cores take them. Here one kernel does all of that between two
convolutions (`kernels.cu`).
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

THREADS = 256
WIDEST = 8
"""Channels of a thread, at most: 16 bytes of half precision."""
KERNELS = "kernels.cu"
ALIGNED = 8
"""Tensor cores take channels in eights; those of image and prediction are filled up to that."""


def definitions(network: Self2SelfNet, dtype: torch.dtype) -> dict[str, int]:
    """Macros with which `KERNELS` is compiled for `network`."""
    import torch

    widest = math.gcd(WIDEST, network.encoder_width, *network.decoder_widths)
    types = {torch.float16: {"T_HALF": 1}, torch.bfloat16: {"T_BFLOAT16": 1}}
    return {"V": widest, **types.get(dtype, {})}


class FusedNetwork:
    """`Self2SelfNet` for the passes of one image.

    Args:
        network: float32, anywhere.
        dtype: of weights and activations: float32, float16 or bfloat16. Sums are float32.
        device: of PyTorch.
        kernels: of `KERNELS`, compiled with `definitions`.
    """

    def __init__(self, network: Self2SelfNet, dtype: torch.dtype, device: str, kernels: Launcher) -> None:
        import torch

        self._kernels = kernels
        self._dtype, self._device = dtype, device
        self._group = definitions(network, dtype)["V"]
        self._channels, self._width = network.channels, network.encoder_width

        def to_channels_last(convolution: torch.nn.Module, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
            weight, bias = (tensor.detach() for tensor in convolution.parameters())
            return self._placed(weight * scale), bias.to(device, torch.float32)

        def filled_up(weight: torch.Tensor, outputs: int, inputs: int) -> torch.Tensor:
            result = weight.new_zeros((outputs, inputs, *weight.shape[2:]))
            result[: weight.shape[0], : weight.shape[1]] = weight
            return result

        stem, stem_bias = (tensor.detach() for tensor in network.stem.conv.parameters())
        self._entering = -(-stem.shape[1] // ALIGNED) * ALIGNED
        self._stem = self._placed(filled_up(stem, len(stem), self._entering)), stem_bias.to(device, torch.float32)
        self._encoder = [to_channels_last(block.conv) for block in network.encoder]  # type: ignore[arg-type]
        # What is kept is scaled by the weights, not by the mask.
        scale = 1.0 / network.decoder_keep
        self._decoder = [
            (to_channels_last(first, scale), to_channels_last(second, scale))
            for first, second in zip(network.decoder_first, network.decoder_second, strict=True)
        ]
        head, head_bias = (tensor.detach() for tensor in network.head.parameters())
        self._leaving = -(-len(head) // ALIGNED) * ALIGNED
        self._head = self._placed(filled_up(head, self._leaving, head.shape[1])), head_bias.to(device, torch.float32)

    def _placed(self, weight: torch.Tensor) -> torch.Tensor:
        import torch

        return weight.to(self._device, self._dtype, memory_format=torch.channels_last)

    def __call__(self, image: torch.Tensor, masks: Sequence[torch.Tensor]) -> torch.Tensor:
        """One pass for each mask of the batch, on PyTorch's current stream.

        Args:
            image: float32 [1, C, H, W], contiguous.
            masks: as for `Self2SelfNet`, in the memory order channels last.

        Returns:
            float32 [N, C, H, W].
        """
        import torch

        input_mask, *dropout_masks = masks
        count, _, height, width = input_mask.shape
        inner = self._width
        padded = self._empty(count, self._entering, height + 2, width + 2)
        self._launch(
            "enter", (width, height, count), image, input_mask, padded, height, width, self._channels, self._entering
        )
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
        # The deepest level has its bias and activation; those above get them where they are joined.
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
        self._launch(
            "leave", (width, height, count), raw, bias, prediction, height, width, self._channels, self._leaving
        )
        return prediction

    def _joined(
        self,
        below: torch.Tensor,
        bias: torch.Tensor | None,
        skip: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
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
        """The convolution without its bias, and the bias."""
        import torch

        return torch.nn.functional.conv2d(padded, weights[0]), weights[1]

    def _empty(self, count: int, channels: int, height: int, width: int) -> torch.Tensor:
        import torch

        shape = (count, channels, height, width)
        return torch.empty(shape, dtype=self._dtype, device=self._device, memory_format=torch.channels_last)

    def _launch_grouped(self, name: str, size: tuple[int, int, int], channels: int, *arguments: Any) -> None:
        width, height, count = size
        self._launch(name, (width * (channels // self._group), height, count), *arguments)

    def _launch(self, name: str, size: tuple[int, int, int], *arguments: Any) -> None:
        threads, rows, count = size
        block = min(THREADS, -(-threads // 32) * 32)
        self._kernels.launch(name, (-(-threads // block), rows, count), block, arguments)
