"""The engine `torch-int8`: PyTorch in 8-bit integers on a CPU with VNNI, as recent ones of Intel and AMD have it.

VNNI multiplies 8-bit integers two to four times as fast as float32. That gain is larger than the one of Winograd's
algorithm in float32. Averaging many passes removes most of the rounding errors (`int8_layers`).
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

_CALIBRATION_SIDE = 128
"""Largest side of a calibration's tiles: `calibration.LARGEST_TILE_SIDE`, whose module cannot be read without torch."""
_CALIBRATION_BYTES = 25.0
"""Memory of a calibration pass, in bytes for each mask element."""
_WEIGHT_BYTES = 35
"""Memory of each weight: a byte in each of ten sets, prepacked and not, and the float32 value."""


class TorchInt8Engine(ParallelPassesEngine):
    """The CPU in 8-bit integers, whatever the model's precision."""

    name = "torch-int8"
    rounds_to = "int8"
    # Measured peaks at 64x64 and 128x128 (eight passes), 256x256 (two), 512x512 and 1024x1024 (one) on two threads, in
    # brackets the estimates by the two constants below and those above: 85, 150, 207, 339 and 889 MB for the paper's
    # network (106, 310, 310, 445 and 1257); 74, 132, 166, 288 and 651 MB for the fast one (74, 215, 215, 307 and 857).
    mask_element_bytes = 3.2
    strip_bytes = 4 * 10**6

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As `Engine.pass_bytes`: a third of float32's memory, and that of the weights and a calibration pass."""
        tile_axes = {axis: min(pixels, _CALIBRATION_SIDE) for axis, pixels in axes.items()}
        calibration = pass_bytes(contract, tile_axes, _CALIBRATION_BYTES)
        channels = [int(spec.dims[0]) for spec in contract.masks[1:]]
        weights = 9 * sum(width * (joined + width) for joined, width in zip(channels[::2], channels[1::2], strict=True))
        return super().pass_bytes(contract, axes) + calibration + _WEIGHT_BYTES * weights

    @classmethod
    def version(cls) -> str:
        """PyTorch's version, if the CPU has VNNI and PyTorch has the operators that use it."""
        reason = "this CPU does not multiply integers of 8 bits fast (VNNI), or this PyTorch has no operators for it"
        return cls.version_if(multiplies_bytes, Obstacle.CPU_WITHOUT_VNNI, reason)

    def _network_for(self, image: Tensor) -> LowPrecisionNetwork:
        import torch

        from self2self.model.network import to_channels_last
        from self2self.runtime.engines.torch_cpu.int8_network import Int8Network

        network = to_channels_last(network_of(self.model), torch.device("cpu"))
        return Int8Network(
            network,
            image,
            self.model.contract.mask_inputs,
            compute_threads(),
            self._side_by_side,
            sets=self._weight_sets,
            whole=self._whole_tensor,
        )

    def provider(self) -> str:
        """Always the CPU."""
        return "PyTorch CPU in 8-bit integers"
