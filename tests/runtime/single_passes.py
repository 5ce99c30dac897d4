"""What the tests of networks that round share: masks of a pass, threads that take their turn, and integers anywhere."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from self2self.machine.system import multiplies_bytes
from self2self.machine.workers import Work
from self2self.model.contract import MaskSpec, mask_specs
from self2self.model.layers import LEVELS
from self2self.model.masks import BoolArray, MaskMaker
from self2self.model.network import Self2SelfNet, initialise
from self2self.runtime.engines.torch_cpu import int8_layers as integer_layers
from self2self.runtime.engines.torch_cpu.int8_layers import Int8Layer
from self2self.runtime.model import Model


def masks_for(model: Model, size: tuple[int, int], first: int, count: int) -> dict[str, BoolArray]:
    """Masks of passes from `first` on, in the memory order of engines that round."""
    axes = dict(zip("HW", size, strict=True))
    made = MaskMaker(model.contract.masks, axes, 0, channels_last=True).make(first, count)
    return {name: mask.copy(order="K") for name, mask in made.items()}


def tensors_for(model: Model, size: tuple[int, int], index: int) -> list[torch.Tensor]:
    """Masks of one pass, for the network."""
    return [torch.from_numpy(mask) for mask in masks_for(model, size, index, 1).values()]


def one_after_the_other(work: Work, count: int) -> None:
    """Threads that take their turn, the last first."""
    for index in reversed(range(count)):
        work(index)


def rms(difference: torch.Tensor) -> float:
    return float(difference.square().mean().sqrt())


def drawn_network(width: int = 16, decoder: int = 32, seed: int = 1) -> tuple[Self2SelfNet, tuple[MaskSpec, ...]]:
    """A network with random weights that hides a fifth of the pixels, and its masks."""
    network = Self2SelfNet(3, width, (decoder,) * LEVELS, 248 / 256).eval()
    initialise(network, "kaiming", torch.Generator().manual_seed(seed))
    return network, mask_specs(3, width, network.decoder_widths, 0.2, 8 / 256)


def integers_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this CPU convolve integers exactly: one without VNNI adds products of bytes in 16 bits, which overflow."""
    if multiplies_bytes():
        return

    def convolve(padded: torch.Tensor, layer: Int8Layer) -> torch.Tensor:
        sums = F.conv2d(padded.double(), layer.weight.double())
        convolved = (sums * layer.scale.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)).float()
        return convolved.contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr(integer_layers, "packed", lambda weight, scale, size: weight)
    monkeypatch.setattr(integer_layers, "convolve", convolve)
