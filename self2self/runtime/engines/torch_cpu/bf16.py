"""The engine `torch-amx`: PyTorch in bfloat16 on a CPU with AMX (Intel Xeon, fourth generation or later).

AMX multiplies bfloat16 matrices several times as fast as the vector units multiply float32. That gain is larger than
the one of Winograd's algorithm in float32. Averaging many passes removes the rounding errors (`bf16_network`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from self2self.errors import Obstacle
from self2self.machine.system import compute_threads, has_amx
from self2self.runtime.engines.torch_cpu.passes import LowPrecisionNetwork, ParallelPassesEngine
from self2self.runtime.engines.torch_cpu.reference import network_of

if TYPE_CHECKING:
    from torch import Tensor


class TorchAmxEngine(ParallelPassesEngine):
    """The CPU in bfloat16, whatever the model's precision."""

    name = "torch-amx"
    rounds_to = "bfloat16"
    # Measured peaks at 128x128 (two passes), 256x256, 512x512 and 1024x1024 (one pass) on two threads, in brackets the
    # estimates by the two constants below: 57, 100, 315 and 1037 MB for the paper's network (93, 146, 463 and 1731);
    # 36, 103, 237 and 910 MB for the fast one (76, 112, 327 and 1186).
    mask_element_bytes = 5.0
    strip_bytes = 20 * 10**6

    @classmethod
    def version(cls) -> str:
        """PyTorch's version, if the CPU has AMX and PyTorch uses it."""
        reason = "this CPU does not multiply matrices of bfloat16 (AMX, Intel Xeon from the fourth generation on)"
        return cls.version_if(has_amx, Obstacle.CPU_WITHOUT_AMX, reason)

    def _network_for(self, image: Tensor) -> LowPrecisionNetwork:
        from self2self.runtime.engines.torch_cpu.bf16_network import Bf16Network

        return Bf16Network(network_of(self.model), image, compute_threads(), self._side_by_side, sets=self._weight_sets)

    def provider(self) -> str:
        """Always the CPU."""
        return "PyTorch CPU in bfloat16"
