"""Runs a model with TensorRT or TensorRT-RTX on an NVIDIA GPU; the two libraries differ in little but their module.

The engine is built from the ONNX file when it is first needed, and kept in ``engines/`` beside that file. Device memory
and streams come from PyTorch, so its CUDA build has to be installed. TensorRT-RTX compiles its kernels at the first run
and keeps them in a runtime cache beside the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from self2self.errors import (
    EngineUnavailableError,
    FileFormatError,
    Obstacle,
    OutputError,
    ResourceError,
    first_line,
    typed,
)
from self2self.machine.files import atomic_write
from self2self.machine.nvidia import Gpu
from self2self.model.contract import IMAGE, INPUT_MASK, PREDICTION
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.gpu import cuda_major_of, require_driver, require_gpu, require_torch_cuda
from self2self.runtime.engines.profiles import profile_for
from self2self.runtime.engines.registry import is_installed

if TYPE_CHECKING:
    import torch

    from self2self.runtime.engines.tensorrt.builder import Library


class TrtEngine(Engine):
    """TensorRT 10 or newer."""

    name = "trt"
    device: ClassVar[str] = "cuda"
    """PyTorch's device of the buffers."""

    _trt: Any = None
    _runtime: Any = None
    _engine: Any = None
    _context: Any = None
    _stream: Any = None
    _buffers: dict[str, Any]
    _count = 0
    _capacity = 0
    _largest = 1
    _engine_path = Path()
    _gpu_name = ""

    @classmethod
    def library(cls) -> Library:
        """The library that this engine uses."""
        from self2self.runtime.engines.tensorrt.builder import LIBRARIES

        return LIBRARIES[cls.name]

    @classmethod
    def version(cls) -> str:
        """The library's version."""
        gpu = require_gpu(cls.name)
        library = cls.library()
        if not is_installed(library.module):
            raise EngineUnavailableError.of(
                cls.name,
                Obstacle.NOT_INSTALLED,
                f"{library.title} is not installed",
                f"Install it: pip install {library.package}.",
            )
        require_driver(cls.name, gpu, library.title, cuda_major_of(library.module))
        trt = library.load()
        cls._check_gpu(trt, gpu)
        require_torch_cuda(cls.name, gpu)
        return f"{library.title} {trt.__version__}"

    @classmethod
    def device_name(cls) -> str:
        """The GPU."""
        return require_gpu(cls.name).name

    @classmethod
    def _check_gpu(cls, trt: Any, gpu: Gpu) -> None:
        """Refuse a GPU that the library cannot build for.

        Raises:
            EngineUnavailableError: the GPU is not supported; TensorRT-RTX lacks data-centre GPUs from Hopper up.
        """
        from self2self.runtime.engines.tensorrt.builder import named_capabilities

        known = [tuple(map(int, text.split("."))) for text in named_capabilities(trt)]
        major, minor = gpu.compute_capability
        if known and not any(k[0] == major and k[1] <= minor for k in known):
            raise EngineUnavailableError.of(
                cls.name,
                Obstacle.GPU_NOT_SERVED,
                f"{cls.library().title} does not run on {gpu.name} (compute capability {gpu.capability})",
                f"TensorRT does: {typed('--engine trt')}.",
            )

    def prepare(self) -> None:
        """Load the engine, or build it, and bind the image."""
        from self2self.runtime.engines.tensorrt.builder import logger_of
        from self2self.runtime.engines.tensorrt.cache import find_covering, is_kept, load_or_build, request_for

        model, library = self.model, self.library()
        gpu = self._gpu()
        self._trt = trt = library.load()
        self._gpu_name = gpu.name
        size = (self.image.shape[2], self.image.shape[3])
        profile = profile_for(model.contract, size, gpu.memory_bytes)
        request = request_for(
            library,
            model.path,
            model.contract,
            profile,
            gpu=gpu,
            capabilities=self._capabilities(gpu),
            fixed_size=model.size,
        )
        if not is_kept(request):
            covering = find_covering(request, size, gpu.capability)
            # Where an engine is on disk but unusable, `load_or_build` notes the reason.
            if covering is None and not request.engine_path.exists():
                self.note(
                    f"building the {library.title} engine {request.engine_path.name}; this is done once and can "
                    "take minutes."
                )
            request = covering or request
        self._runtime = trt.Runtime(logger_of(trt))
        loaded = load_or_build(request, self._runtime.deserialize_cuda_engine, self.note)
        self._engine, self._engine_path = loaded.engine, loaded.path
        self._largest = request.key.profile.batches[2]
        self._context = self._create_context()
        if self._context is None:
            raise ResourceError(
                f"out of GPU memory: {library.title} cannot run batches of {self._largest} here. "
                f"Close other programs on the GPU, or use {typed('--engine ort')}."
            )
        self._bind_image()

    @staticmethod
    def _capabilities(gpu: Gpu) -> tuple[str, ...]:
        """Compute capabilities that have to be named when the engine is built; empty for most GPUs."""
        return ()

    def _gpu(self) -> Gpu:
        return require_gpu(self.name)

    def _create_context(self) -> Any:
        return self._engine.create_execution_context()

    def _bind_image(self) -> None:
        import torch

        self._stream = self._new_stream()
        self._buffers = {IMAGE: torch.from_numpy(self.image).to(self.device)}
        self._count = self._capacity = 0
        self._set_shape(IMAGE, tuple(self.image.shape))
        self._context.set_tensor_address(IMAGE, self._buffers[IMAGE].data_ptr())

    def _use_image(self) -> None:
        import torch

        if self._context is not None:
            # The copy is on the stream of the runs, so the next run waits for it.
            with self._on_stream():
                self._buffers[IMAGE].copy_(torch.from_numpy(self.image))

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """Split the batch by the engine's largest batch and run the parts; the result is a new array."""
        count = len(masks[INPUT_MASK])
        predictions = np.empty((count, *self.image.shape[1:]), np.float32)
        for first in range(0, count, self._largest):
            part = slice(first, min(first + self._largest, count))
            self._run_part({name: mask[part] for name, mask in masks.items()}, predictions[part])
        return predictions

    def _run_part(self, masks: dict[str, BoolArray], target: FloatArray) -> None:
        import torch

        count = len(target)
        try:
            if count > self._capacity:
                self._allocate(count)
            if count != self._count:
                for name, mask in masks.items():
                    self._set_shape(name, mask.shape)
                self._count = count
            # On the default stream TensorRT would synchronise more often than necessary.
            with self._on_stream():
                for name, mask in masks.items():
                    self._buffers[name][:count].copy_(torch.from_numpy(mask), non_blocking=True)
                done = self._context.execute_async_v3(self._stream_handle())
                torch.from_numpy(target).copy_(self._buffers[PREDICTION][:count])
        except torch.OutOfMemoryError as error:
            self._drop_buffers()
            raise MemoryError(first_line(error)) from error
        if not done:
            raise self._failure()

    def run_on_device(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `device_engine.DeviceEngine`; runs up to `largest_device_batch` passes."""
        import torch

        count = len(masks[INPUT_MASK])
        # The next `run` then binds its own buffers again.
        self._count = self._capacity = 0
        predictions = self._buffers.get(PREDICTION)
        if predictions is None or len(predictions) < count:
            self._drop_buffers()
            shape = (count, *self.image.shape[1:])
            predictions = torch.empty(shape, dtype=torch.float32, device=self.device)
            self._buffers[PREDICTION] = predictions
        for name, mask in masks.items():
            self._set_shape(name, tuple(mask.shape))
            self._context.set_tensor_address(name, mask.data_ptr())
        self._context.set_tensor_address(PREDICTION, predictions.data_ptr())
        if not self._context.execute_async_v3(self._current_stream_handle()):
            raise self._failure()
        result: torch.Tensor = predictions[:count]
        return result

    def largest_device_batch(self) -> int:
        """The largest batch that the engine was built for."""
        return self._largest

    def _allocate(self, capacity: int) -> None:
        import torch

        self._drop_buffers()
        axes = dict(zip("HW", self.image.shape[2:], strict=True))
        for spec in self.model.contract.masks:
            shape = (capacity, *spec.shape(axes))
            self._buffers[spec.name] = torch.empty(shape, dtype=torch.bool, device=self.device)
        shape = (capacity, *self.image.shape[1:])
        self._buffers[PREDICTION] = torch.empty(shape, dtype=torch.float32, device=self.device)
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.data_ptr())
        self._capacity = capacity

    def _drop_buffers(self) -> None:
        """Free all buffers but the image's, so that the buffers of a smaller batch fit."""
        self._buffers = {IMAGE: self._buffers[IMAGE]}
        self._count = self._capacity = 0

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise self._failure()

    def _failure(self) -> Exception:
        from self2self.runtime.engines.tensorrt.builder import last_error

        reason = last_error(self._trt) or "no reason given"
        if "memory" in reason.lower():
            self._drop_buffers()
            return MemoryError(reason)
        return FileFormatError(
            f"{self._engine_path}: {self.library().title} cannot run it ({reason}). Remove it to have it built "
            f"again, or use {typed('--engine ort')}."
        )

    def _new_stream(self) -> Any:
        import torch

        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def _stream_handle(self) -> int:
        return int(self._stream.cuda_stream)

    def _current_stream_handle(self) -> int:
        import torch

        return int(torch.cuda.current_stream().cuda_stream)

    def _on_stream(self) -> AbstractContextManager[Any]:
        import torch

        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context

    def provider(self) -> str:
        """Library, version and GPU."""
        return f"{self.library().title} {self._trt.__version__} on {self._gpu_name}"

    def close(self) -> None:
        """Free the context, the engine, the runtime and the buffers, in this order."""
        self._context = None
        self._engine = None
        self._runtime = None
        self._stream = None
        self._buffers = {}
        self._count = self._capacity = 0


class TrtRtxEngine(TrtEngine):
    """TensorRT-RTX, for GeForce and RTX cards."""

    name = "trt-rtx"
    _cache: Any = None

    @staticmethod
    def _capabilities(gpu: Gpu) -> tuple[str, ...]:
        # An engine for all GPUs from Ampere up does not run on Turing.
        return ("7.5",) if gpu.compute_capability == (7, 5) else ()

    def _create_context(self) -> Any:
        """Create a context that takes its kernels from the runtime cache, if there is one."""
        config = self._engine.create_runtime_config()
        cache = config.create_runtime_cache()
        with suppress(OSError):
            # The library rejects and refills a cache of another driver, GPU or library version.
            cache.deserialize(self._cache_path.read_bytes())
        config.set_runtime_cache(cache)
        # Hundreds of passes have the same shape, so waiting for its kernels pays, and timings are steady.
        strategies = self._trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._cache = cache
        return self._engine.create_execution_context(config)

    @property
    def _cache_path(self) -> Path:
        return self._engine_path.with_suffix(".kernels")

    def close(self) -> None:
        """Write the compiled kernels to the runtime cache, and free everything."""
        if self._context is not None and self._cache is not None:
            data = self._cache.serialize()
            # A cache that cannot be written costs only some seconds at the next start.
            with suppress(OutputError, ResourceError):
                if data is not None:
                    atomic_write(self._cache_path, bytes(data))
        self._cache = None
        super().close()
