"""PyTorch on a CPU that multiplies integers of 8 bits: with VNNI, which CPUs of Intel and AMD have had for some years.

It multiplies them two to four times as fast as float32, more than Winograd's algorithm saves. What rounding costs, the
ensemble gives back (`integer_layers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from self2self.budget import pass_bytes
from self2self.contract import Contract
from self2self.errors import Obstacle
from self2self.runtime.torch_engine import network_of
from self2self.runtime.torch_passes import PassesSideBySide, RoundingNetwork
from self2self.system import compute_threads, multiplies_bytes

if TYPE_CHECKING:
    from torch import Tensor

_TILE = 128
"""Sides of what the passes in float32 see that tell the ranges, about (`ranges.TILE`, which needs PyTorch)."""
_LAYOUT_BYTES = 25.0
"""What these take for each element of their masks, the integer weights included.

Peaks at 128x128 (two passes), 256x256, 512x512 and 1024x1024 (one pass) on two threads: 115, 112, 278 and 850 MB for
the paper's network (166, 200, 403 and 1214 by these), 116, 118, 213 and 653 MB for the fast one (112, 135, 273, 822).
"""


class TorchInt8Engine(PassesSideBySide):
    """The CPU, in integers whatever the model's precision."""

    name = "torch-int8"
    rounds_to = "int8"
    mask_element_bytes = 3.2

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As for every engine; a third of what float32 takes, but for the passes in float32 that tell the ranges."""
        tile = {axis: min(pixels, _TILE) for axis, pixels in axes.items()}
        return cls.further_pass_bytes(contract, axes) + pass_bytes(contract, tile, _LAYOUT_BYTES)

    @classmethod
    def version(cls) -> str:
        """PyTorch's version, where the CPU has VNNI and PyTorch the operators for it."""
        reason = "this CPU does not multiply integers of 8 bits fast (VNNI), or this PyTorch cannot make it"
        return cls.version_where(multiplies_bytes, Obstacle.CPU_WITHOUT_VNNI, reason)

    def _rounding(self, image: Tensor) -> RoundingNetwork:
        import torch

        from self2self.runtime.integers import IntegerNetwork
        from self2self.train.network import placed

        network = placed(network_of(self.model), torch.device("cpu"))
        return IntegerNetwork(network, image, self.model.contract.masks, compute_threads(), self._side_by_side)

    def provider(self) -> str:
        """Always the CPU."""
        return "PyTorch CPU in 8-bit integers"
