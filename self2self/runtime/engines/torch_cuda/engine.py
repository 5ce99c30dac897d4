"""The engine `torch-cuda`: PyTorch on an NVIDIA GPU, without any other library than fits on a GPU need.

cuDNN computes the convolutions. The operations between them run in custom kernels if these can be compiled (`fused`),
and otherwise operator by operator.

Products of float32 models are rounded to TF32, as PyTorch does by default. A pass then differs by up to 3e-4 and takes
a sixth of the time (docs/engines.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from self2self.errors import EngineUnavailableError, first_line
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.gpu import require_gpu, require_torch_cuda
from self2self.runtime.engines.profiles import BATCHES
from self2self.runtime.engines.torch_cpu.reference import network_of
from self2self.runtime.engines.torch_cuda.fused import KERNELS, FusedNetwork, kernel_macros
from self2self.runtime.engines.torch_cuda.nvrtc import Launcher, compiled

if TYPE_CHECKING:
    import torch


class TorchCudaEngine(Engine):
    """The first GPU, in the model's precision."""

    name = "torch-cuda"
    device: ClassVar[str] = "cuda"
    rounds_to = "tf32"
    channels_last_masks = True
    _fused: FusedNetwork | None = None
    _network: Any = None
    _image: Any = None

    @classmethod
    def version(cls) -> str:
        """PyTorch's version."""
        gpu = require_gpu(cls.name)
        require_torch_cuda(cls.name, gpu)
        import torch

        return f"PyTorch {torch.__version__}"

    @classmethod
    def device_name(cls) -> str:
        """The GPU."""
        return require_gpu(cls.name).name

    def prepare(self) -> None:
        """Make the network from the weights of the graph's convolutions, on the GPU."""
        network = network_of(self.model)
        try:
            kernels = self._kernels(kernel_macros(network, self._dtype()))
        except EngineUnavailableError as error:
            self.note(f"{error} Passes run operator by operator, which takes several times as long.")
            self._network = network.to(self.device, self._dtype())
        else:
            self._fused = FusedNetwork(network, self._dtype(), self.device, kernels)
        self._use_image()

    def _kernels(self, macros: Mapping[str, int]) -> Launcher:
        return compiled(KERNELS, tuple(macros.items()))

    def _dtype(self) -> torch.dtype:
        import torch

        return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.model.contract.precision, torch.float32)

    def _use_image(self) -> None:
        import torch

        if self._fused is not None:
            self._image = torch.from_numpy(self.image).to(self.device)
        elif self._network is not None:
            self._image = torch.from_numpy(self.image).to(self.device, self._dtype())

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """As `Engine.run`: one forward pass of the whole batch; the result is a new array."""
        import torch

        try:
            on_device = {name: torch.from_numpy(mask).to(self.device) for name, mask in masks.items()}
            predictions: FloatArray = self.run_on_device(on_device).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise MemoryError(first_line(error)) from error
        return predictions

    def run_on_device(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `device_engine.DeviceEngine`."""
        import torch

        ordered = [masks[spec.name] for spec in self.model.contract.masks]
        with torch.inference_mode():
            if self._fused is not None:
                return self._fused(
                    self._image, [mask.contiguous(memory_format=torch.channels_last) for mask in ordered]
                )
            predictions: torch.Tensor = self._network(self._image, *ordered)
            return predictions.float()

    def largest_device_batch(self) -> int:
        """The largest batch worth trying; PyTorch itself sets no limit."""
        return BATCHES[2]

    def provider(self) -> str:
        """The library and the GPU."""
        return f"PyTorch CUDA on {self.device_name()}"

    def close(self) -> None:
        """Free the network."""
        self._fused = self._network = self._image = None
