"""Helpers for tests of the low-precision networks: masks of a pass, workers in a fixed order, int8 on any CPU."""

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
from self2self.runtime.engines.torch_cpu import int8_layers
from self2self.runtime.engines.torch_cpu.int8_layers import Int8Layer
from self2self.runtime.model import Model


def masks_for(model: Model, size: tuple[int, int], first: int, count: int) -> dict[str, BoolArray]:
    """Masks of `count` passes from `first` on, in the memory order of the low-precision engines."""
    axes = dict(zip("HW", size, strict=True))
    made = MaskMaker(model.contract.masks, axes, 0, channels_last=True).make(first, count)
    return {name: mask.copy(order="K") for name, mask in made.items()}


def tensors_for(model: Model, size: tuple[int, int], index: int) -> list[torch.Tensor]:
    """Masks of pass `index` as tensors, in the order of the network's arguments."""
    return [torch.from_numpy(mask) for mask in masks_for(model, size, index, 1).values()]


def in_reverse_order(work: Work, count: int) -> None:
    """A `SideBySide` without threads, which calls the last worker first."""
    for index in reversed(range(count)):
        work(index)


def rms(difference: torch.Tensor) -> float:
    """Root mean square."""
    return float(difference.square().mean().sqrt())


def random_network(width: int = 16, decoder: int = 32, seed: int = 1) -> tuple[Self2SelfNet, tuple[MaskSpec, ...]]:
    """A network with random weights, and its masks, which hide a fifth of the pixels."""
    network = Self2SelfNet(3, width, (decoder,) * LEVELS, 248 / 256).eval()
    initialise(network, "kaiming", torch.Generator().manual_seed(seed))
    return network, mask_specs(3, width, network.decoder_widths, 0.2, 8 / 256)


def emulate_int8_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute int8 convolutions exactly on a CPU without VNNI.

    Such a CPU sums products of bytes in 16 bits, which overflow.
    """
    if multiplies_bytes():
        return

    def convolve(padded: torch.Tensor, layer: Int8Layer) -> torch.Tensor:
        sums = F.conv2d(padded.double(), layer.weight.double())
        result = (sums * layer.scale.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)).float()
        return result.contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr(int8_layers, "prepacked", lambda weight, scale, size: weight)
    monkeypatch.setattr(int8_layers, "convolve", convolve)
