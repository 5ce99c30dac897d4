"""Engines of PyTorch that run single passes side by side, a thread for each, on a network that rounds."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from self2self.errors import EngineUnavailableError, Obstacle, pytorch_memory
from self2self.machine.system import compute_threads, trim_heap
from self2self.machine.workers import Work, Workers
from self2self.model.contract import Contract
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.torch_cpu.reference import TorchEngine
from self2self.runtime.memory_budget import pass_bytes
from self2self.runtime.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_SIDE_BY_SIDE_PIXELS = 2**16
"""Up to so many pixels passes run side by side; above, threads that share one pass do in less memory."""
_PIXELS_A_RUN = 2**17
"""In all passes of a run, about. Threads wait for each other at its end, which costs passes over 128x128 a sixth of
their time where each thread has one, and little where it has four."""


class LowPrecisionNetwork(Protocol):
    """The network for single passes over one image."""

    def __call__(self, masks: Sequence[Tensor], index: int, *, shared: bool) -> Tensor:
        """One pass; `shared` lets threads share it."""

    def use_image(self, image: Tensor) -> None:
        """Exchange the image."""


class ParallelPassesEngine(Engine):
    """A network that rounds, in PyTorch on the CPU.

    The passes of a batch are computed side by side; a larger image runs one pass at a time, and the threads share it.
    """

    host_channels_last = True
    copy_seconds: float = 0.0
    mask_element_bytes: ClassVar[float]
    """What each pass takes for an element of its masks, these included."""
    strip_bytes: ClassVar[int]
    """What a thread takes for its strips, whether all work on one pass or on several."""
    _network: LowPrecisionNetwork | None = None

    def __init__(self, model: Model, image: FloatArray) -> None:
        super().__init__(model, image)
        height, width = image.shape[2:]
        self._at_a_time = compute_threads() if _run_side_by_side(height, width) else 1
        """Passes at the same time."""
        self._workers = Workers(compute_threads())

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As for every engine; less than float32 takes."""
        further = cls.further_pass_bytes(contract, axes)
        # The more threads, the lower their strips: all together they are the image, which has no more without strips.
        return further + min(compute_threads() * cls.strip_bytes, further)

    @classmethod
    def further_pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """Without what all passes share, which `pass_bytes` counts."""
        return pass_bytes(contract, axes, cls.mask_element_bytes)

    @classmethod
    def useful_batch(cls, axes: Mapping[str, int]) -> int:
        """A pass for each thread, or several of a small image; of a large image one."""
        height, width = axes["H"], axes["W"]
        if not _run_side_by_side(height, width):
            return 1
        return max(compute_threads(), _PIXELS_A_RUN // (height * width))

    @classmethod
    def version_where(cls, able: Callable[[], bool], obstacle: Obstacle, reason: str) -> str:
        """PyTorch's version, where the CPU and PyTorch are `able`.

        Raises:
            EngineUnavailableError: they are not, which is `obstacle`, for `reason`; or PyTorch does not work.
        """
        try:
            fits = able()
        except (ImportError, OSError):
            # What is wrong with PyTorch, its own engine says.
            fits = True
        if not fits:
            raise EngineUnavailableError.of(cls.name, obstacle, reason)
        return TorchEngine.version()

    @abstractmethod
    def _rounding(self, image: Tensor) -> LowPrecisionNetwork:
        """The model for `image`."""

    def prepare(self) -> None:
        """Round the weights of the graph's convolutions."""
        import torch

        self._network = self._rounding(torch.from_numpy(self.image))
        # What making the layers took, for the passes.
        trim_heap()

    def _use_image(self) -> None:
        import torch

        if self._network is not None:
            with pytorch_memory():
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

        try:
            self._workers.run(shared, count)
        finally:
            # What a thread sets is its own, but also what threads that come later begin with.
            torch.set_num_threads(threads)

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """The passes of the batch, side by side; the result is a new array."""
        import torch

        network: Any = self._network
        count = len(next(iter(masks.values())))
        given = [torch.from_numpy(masks[spec.name]) for spec in self.model.contract.masks]
        predictions = np.empty((count, *self.image.shape[1:]), np.float32)
        threads = min(count, self._at_a_time)
        copied = [0.0] * threads
        indices = iter(range(count))

        def compute(worker: int) -> None:
            with torch.inference_mode():
                # Whoever is done takes the next one: virtual processors are not equally fast all the time.
                for index in indices:
                    masks_of_pass = [mask[index : index + 1] for mask in given]
                    prediction = network(masks_of_pass, self.first_pass + index, shared=threads == 1)
                    start = time.perf_counter()
                    predictions[index] = prediction[0].numpy()
                    copied[worker] += time.perf_counter() - start

        with pytorch_memory():
            self._side_by_side(compute, threads)
        self.copy_seconds += sum(copied) / threads
        return predictions

    def close(self) -> None:
        """Free the network and the threads."""
        self._network = None
        self._workers.close()


def _run_side_by_side(height: int, width: int) -> bool:
    return height * width <= _SIDE_BY_SIDE_PIXELS
