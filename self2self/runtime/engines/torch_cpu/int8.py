"""PyTorch on a CPU that multiplies integers of 8 bits: with VNNI, which CPUs of Intel and AMD have had for some years.

It multiplies them two to four times as fast as float32, more than Winograd's algorithm saves. What rounding costs, the
ensemble gives back (`integer_layers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from self2self.errors import Obstacle
from self2self.machine.system import compute_threads, multiplies_bytes
from self2self.model.contract import Contract
from self2self.runtime.engines.torch_cpu.passes import LowPrecisionNetwork, ParallelPassesEngine
from self2self.runtime.engines.torch_cpu.reference import network_of
from self2self.runtime.memory_budget import pass_bytes

if TYPE_CHECKING:
    from torch import Tensor

_TILE = 128
"""Sides of what the passes in float32 see that tell the ranges, at most (`ranges.TILE`, which needs PyTorch)."""
_LOOK_BYTES = 25.0
"""What these take for each element of their masks."""
_WEIGHT_BYTES = 35
"""What each weight takes in all: ten sets of bytes, packed and not, and in float32."""


class TorchInt8Engine(ParallelPassesEngine):
    """The CPU, in integers whatever the model's precision."""

    name = "torch-int8"
    rounds_to = "int8"
    # Peaks at 64x64 and 128x128 (eight passes), 256x256 (two), 512x512 and 1024x1024 (one) on two threads: 85, 150,
    # 207, 339 and 889 MB for the paper's network (106, 310, 310, 445 and 1257 by these and those above), 74, 132, 166,
    # 288 and 651 MB for the fast one (74, 215, 215, 307 and 857).
    mask_element_bytes = 3.2
    strip_bytes = 4 * 10**6

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As for every engine; a third of what float32 takes, but for the passes in float32 that tell the ranges."""
        look = pass_bytes(contract, {axis: min(pixels, _TILE) for axis, pixels in axes.items()}, _LOOK_BYTES)
        channels = [int(spec.dims[0]) for spec in contract.masks[1:]]
        weights = 9 * sum(width * (joined + width) for joined, width in zip(channels[::2], channels[1::2], strict=True))
        return super().pass_bytes(contract, axes) + look + _WEIGHT_BYTES * weights

    @classmethod
    def version(cls) -> str:
        """PyTorch's version, where the CPU has VNNI and PyTorch the operators for it."""
        reason = "this CPU does not multiply integers of 8 bits fast (VNNI), or this PyTorch cannot make it"
        return cls.version_where(multiplies_bytes, Obstacle.CPU_WITHOUT_VNNI, reason)

    def _rounding(self, image: Tensor) -> LowPrecisionNetwork:
        import torch

        from self2self.model.network import to_channels_last
        from self2self.runtime.engines.torch_cpu.int8_network import Int8Network

        network = to_channels_last(network_of(self.model), torch.device("cpu"))
        return Int8Network(network, image, self.model.contract.masks, compute_threads(), self._side_by_side)

    def provider(self) -> str:
        """Always the CPU."""
        return "PyTorch CPU in 8-bit integers"
