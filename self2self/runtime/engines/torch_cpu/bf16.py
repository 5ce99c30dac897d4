"""PyTorch on a CPU that multiplies matrices of bfloat16: Intel's from the fourth generation of Xeon on have AMX.

Its tiles multiply several times as fast as the vector units do float32, more than Winograd's algorithm saves. What
rounding to bfloat16 costs, the ensemble gives back (`rounded`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from self2self.errors import Obstacle
from self2self.machine.system import compute_threads, multiplies_bfloat16
from self2self.runtime.engines.torch_cpu.passes import LowPrecisionNetwork, ParallelPassesEngine
from self2self.runtime.engines.torch_cpu.reference import network_of

if TYPE_CHECKING:
    from torch import Tensor


class TorchAmxEngine(ParallelPassesEngine):
    """The CPU, in bfloat16 whatever the model's precision."""

    name = "torch-amx"
    rounds_to = "bfloat16"
    # Peaks at 128x128 (two passes), 256x256, 512x512 and 1024x1024 (one pass) on two threads: 57, 100, 315 and 1037 MB
    # for the paper's network (93, 146, 463 and 1731 by these), 36, 103, 237 and 910 MB for the fast one (76, 112, 327
    # and 1186).
    mask_element_bytes = 5.0
    strip_bytes = 20 * 10**6

    @classmethod
    def version(cls) -> str:
        """PyTorch's version, where the CPU has AMX and PyTorch uses it."""
        reason = "this CPU does not multiply matrices of bfloat16 (AMX, Intel Xeon from the fourth generation on)"
        return cls.version_where(multiplies_bfloat16, Obstacle.CPU_WITHOUT_AMX, reason)

    def _rounding(self, image: Tensor) -> LowPrecisionNetwork:
        from self2self.runtime.engines.torch_cpu.bf16_network import Bf16Network

        return Bf16Network(network_of(self.model), image, compute_threads(), self._side_by_side)

    def provider(self) -> str:
        """Always the CPU."""
        return "PyTorch CPU in bfloat16"
