"""What `torch-amx` and `torch-int8` share: parallel passes of a low-precision network, one pass for each thread."""

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
from self2self.model.masks import PASSES_PER_BLOCK, BoolArray
from self2self.model.plain import MIRRORINGS
from self2self.runtime.engines.engine import Engine, FloatArray, count_passes
from self2self.runtime.engines.torch_cpu.reference import TorchEngine
from self2self.runtime.memory_budget import pass_bytes
from self2self.runtime.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_LARGEST_PARALLEL_PIXELS = 2**16
"""Pixels of the largest image whose passes run in parallel. Threads that share a single pass take less memory."""
_PIXELS_PER_RUN = 2**17
"""Approximate number of pixels in all passes of a run.

At the end of a run, threads wait for each other. At 128x128 that costs a sixth of the time if each thread has one pass,
and little if it has four.
"""


class LowPrecisionNetwork(Protocol):
    """A network that computes single passes over one image."""

    def __call__(self, masks: Sequence[Tensor], index: int, *, shared: bool) -> Tensor:
        """Compute pass `index`, float32 [1, C, H, W].

        Args:
            masks: bool [1, ...], as for `Self2SelfNet`; none for no masks.
            index: index of the pass; it selects the weight set.
            shared: whether threads share the pass.
        """

    def use_image(self, image: Tensor, whole: Tensor | None = None) -> None:
        """Replace the image, float32 [1, C, H, W], which is a tile of `whole`, [1, C, H, W], if that is given."""


class ParallelPassesEngine(Engine):
    """A low-precision network, in PyTorch on the CPU.

    The passes of a batch run in parallel. Over a large image, one pass follows the other, and the threads share it.
    """

    host_channels_last = True
    runs_plain = True
    copy_seconds: float = 0.0
    mask_element_bytes: ClassVar[float]
    """Memory of a pass, in bytes for each mask element; the masks are included."""
    strip_bytes: ClassVar[int]
    """Memory of a thread's strips, in bytes, whether the threads share one pass or not."""
    _network: LowPrecisionNetwork | None = None

    def __init__(self, model: Model, image: FloatArray) -> None:
        super().__init__(model, image)
        height, width = image.shape[2:]
        self._parallel_passes = compute_threads() if _passes_run_in_parallel(height, width) else 1
        """Maximum number of passes at the same time."""
        self._workers = Workers(compute_threads())
        self._whole: tuple[FloatArray, Tensor] | None = None

    @property
    def _weight_sets(self) -> int:
        """Number of weight sets: as many as there are passes in a block, or views of a plain model."""
        return len(MIRRORINGS) if self.model.contract.plain else PASSES_PER_BLOCK

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As `Engine.pass_bytes`; less than in float32."""
        further = cls.further_pass_bytes(contract, axes)
        # More threads have smaller strips. All strips together are the image, whose pass takes `further` bytes.
        return further + min(compute_threads() * cls.strip_bytes, further)

    @classmethod
    def further_pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As `Engine.further_pass_bytes`: without the strips, which all passes share."""
        return pass_bytes(contract, axes, cls.mask_element_bytes)

    @classmethod
    def useful_batch(cls, axes: Mapping[str, int]) -> int:
        """One or more passes for each thread, according to the size of the image; 1 for a large image."""
        height, width = axes["H"], axes["W"]
        if not _passes_run_in_parallel(height, width):
            return 1
        return max(compute_threads(), _PIXELS_PER_RUN // (height * width))

    @classmethod
    def version_if(cls, is_supported: Callable[[], bool], obstacle: Obstacle, reason: str) -> str:
        """PyTorch's version, if the CPU and PyTorch support the engine.

        Args:
            is_supported: whether they do.
            obstacle: the kind of the error if they do not.
            reason: the text of that error.

        Raises:
            EngineUnavailableError: the engine is not supported, or PyTorch does not work.
        """
        try:
            supported = is_supported()
        except (ImportError, OSError):
            # PyTorch does not load. `TorchEngine.version` raises the error that says why.
            supported = True
        if not supported:
            raise EngineUnavailableError.of(cls.name, obstacle, reason)
        return TorchEngine.version()

    @abstractmethod
    def _network_for(self, image: Tensor) -> LowPrecisionNetwork:
        """The model's low-precision network for `image`, float32 [1, C, H, W]."""

    def prepare(self) -> None:
        """Make the network from the weights of the graph's convolutions."""
        import torch

        self._network = self._network_for(torch.from_numpy(self.image))
        # Return what making the layers took to the system, for the passes.
        trim_heap()

    def _use_image(self) -> None:
        import torch

        if self._network is not None:
            with pytorch_memory():
                self._network.use_image(torch.from_numpy(self.image), self._whole_tensor)

    @property
    def _whole_tensor(self) -> Tensor | None:
        """`whole_image` as [1, C, H, W]: the same tensor as long as it is the same image."""
        import torch

        if self.whole_image is None:
            self._whole = None
        elif self._whole is None or self._whole[0] is not self.whole_image:
            self._whole = self.whole_image, torch.from_numpy(self.whole_image)[None]
        return None if self._whole is None else self._whole[1]

    def _side_by_side(self, work: Work, count: int) -> None:
        """Call `work` with 0 to `count` - 1 in own threads; each may use an equal share of PyTorch's threads."""
        import torch

        if count == 1:
            work(0)
            return
        threads = torch.get_num_threads()
        share = max(1, compute_threads() // count)

        def work_with_share(index: int) -> None:
            if torch.get_num_threads() != share:
                torch.set_num_threads(share)
            work(index)

        try:
            self._workers.run(work_with_share, count)
        finally:
            # `set_num_threads` changes the calling thread, and the initial number of threads that start later.
            torch.set_num_threads(threads)

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """As `Engine.run`: the passes of the batch, in parallel; the result is a new array."""
        import torch

        network: Any = self._network
        count = count_passes(masks)
        mask_tensors = [torch.from_numpy(masks[spec.name]) for spec in self.model.contract.mask_inputs]
        predictions = np.empty((count, *self.image.shape[1:]), np.float32)
        threads = min(count, self._parallel_passes)
        copied = [0.0] * threads
        indices = iter(range(count))

        def compute(worker: int) -> None:
            with torch.inference_mode():
                # All threads take passes from one iterator: virtual processors are not equally fast all the time.
                for index in indices:
                    masks_of_pass = [mask[index : index + 1] for mask in mask_tensors]
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


def _passes_run_in_parallel(height: int, width: int) -> bool:
    return height * width <= _LARGEST_PARALLEL_PIXELS
