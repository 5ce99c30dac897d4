"""PyTorch on a CPU that multiplies matrices of bfloat16: Intel's from the fourth generation of Xeon on have AMX.

Its tiles multiply several times as fast as the vector units do float32, more than Winograd's algorithm saves. What
rounding to bfloat16 costs, the ensemble gives back (`rounded`). The passes of a batch are computed side by side, a
thread for each; a larger image runs one pass at a time, and the threads share the strips that its ends are cut into.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from self2self.budget import pass_bytes
from self2self.contract import Contract
from self2self.errors import EngineUnavailableError, Obstacle, pytorch_memory
from self2self.masks import BoolArray
from self2self.runtime.engine import Engine, FloatArray
from self2self.runtime.model import Model
from self2self.runtime.torch_engine import TorchEngine, network_of
from self2self.system import compute_threads, multiplies_bfloat16
from self2self.workers import Work, Workers

_SIDE_BY_SIDE_PIXELS = 2**16
"""Up to so many pixels passes run side by side; above, strips of one pass do in less memory."""
_STRIP_BYTES = 20 * 10**6
_BYTES_PER_MASK_ELEMENT = 5.0
"""What a thread takes for its strips, and each pass besides, its masks included.

Peaks at 128x128 (two passes), 256x256, 512x512 and 1024x1024 (one pass) on two threads: 57, 100, 315 and 1037 MB for
the paper's network (93, 146, 463 and 1731 by these), 36, 103, 237 and 910 MB for the fast one (76, 112, 327 and 1186).
"""


class TorchAmxEngine(Engine):
    """The CPU, in bfloat16 whatever the model's precision."""

    name = "torch-amx"
    rounds_to = "bfloat16"
    host_channels_last = True
    copy_seconds: float = 0.0
    _network: Any = None

    def __init__(self, model: Model, image: FloatArray) -> None:
        super().__init__(model, image)
        height, width = image.shape[2:]
        self._most = self.useful_batch({"H": height, "W": width})
        self._workers = Workers(compute_threads())

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As for every engine; half of what float32 takes."""
        further = cls.further_pass_bytes(contract, axes)
        # The more threads, the lower their strips: all together they are the image, which has no more without strips.
        return further + min(compute_threads() * _STRIP_BYTES, further)

    @classmethod
    def further_pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """Without strips, which `pass_bytes` counts for all threads, whether they work on one pass or on several."""
        return pass_bytes(contract, axes, _BYTES_PER_MASK_ELEMENT)

    @classmethod
    def useful_batch(cls, axes: Mapping[str, int]) -> int:
        """A pass for each thread; of a large image one."""
        return compute_threads() if axes["H"] * axes["W"] <= _SIDE_BY_SIDE_PIXELS else 1

    @classmethod
    def version(cls) -> str:
        """PyTorch's version, where the CPU has AMX and PyTorch uses it."""
        try:
            able = multiplies_bfloat16()
        except (ImportError, OSError):
            # What is wrong with PyTorch, its own engine says.
            able = True
        if not able:
            raise EngineUnavailableError.of(
                cls.name,
                Obstacle.CPU_WITHOUT_AMX,
                "this CPU does not multiply matrices of bfloat16 (AMX, Intel Xeon from the fourth generation on)",
            )
        return TorchEngine.version()

    def prepare(self) -> None:
        """Round the weights of the graph's convolutions."""
        import torch

        from self2self.runtime.rounded import RoundedNetwork

        network = network_of(self.model)
        self._network = RoundedNetwork(network, torch.from_numpy(self.image), compute_threads(), self._side_by_side)

    def _use_image(self) -> None:
        import torch

        if self._network is not None:
            self._network.use_image(torch.from_numpy(self.image))

    def _side_by_side(self, work: Work, count: int) -> None:
        """Run `work` in threads of ours, each of which PyTorch may share out to as many as are left over."""
        import torch

        if count == 1:
            work(0)
            return
        threads = torch.get_num_threads()
        share = max(1, compute_threads() // count)

        def shared(index: int) -> None:
            if torch.get_num_threads() != share:
                torch.set_num_threads(share)
            work(index)

        self._workers.run(shared, count)
        # What a thread sets is its own, but also what threads that come later begin with.
        torch.set_num_threads(threads)

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """The passes of the batch, side by side; the result is a new array."""
        import torch

        count = len(next(iter(masks.values())))
        given = [torch.from_numpy(masks[spec.name]) for spec in self.model.contract.masks]
        predictions = np.empty((count, *self.image.shape[1:]), np.float32)
        threads = min(count, self._most)
        copied = [0.0] * threads

        def compute(first: int) -> None:
            with torch.inference_mode():
                for index in range(first, count, threads):
                    masks_of_pass = [mask[index : index + 1] for mask in given]
                    prediction = self._network(masks_of_pass, self.first_pass + index, shared=threads == 1)
                    start = time.perf_counter()
                    predictions[index] = prediction[0].numpy()
                    copied[first] += time.perf_counter() - start

        with pytorch_memory():
            self._side_by_side(compute, threads)
        self.copy_seconds += sum(copied) / threads
        return predictions

    def provider(self) -> str:
        """Always the CPU."""
        return "PyTorch CPU in bfloat16"

    def close(self) -> None:
        """Free the network and the threads."""
        self._network = None
        self._workers.close()
