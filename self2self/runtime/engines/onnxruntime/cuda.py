"""Runs a model with ONNX Runtime on an NVIDIA GPU, through its CUDA provider.

Masks and predictions live in device buffers. The buffers are bound once for each batch size and reused. So a run costs
one copy of the masks to the device and one copy of the predictions back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, ResourceError, first_line, shown, typed
from self2self.machine.nvidia import Gpu, driver_for
from self2self.machine.nvidia_libraries import explain
from self2self.model.contract import IMAGE, PREDICTION
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.gpu import require_driver, require_gpu
from self2self.runtime.engines.graphs import Runner
from self2self.runtime.engines.onnxruntime.cpu import (
    BOTH_INSTALLED,
    FATAL_ONLY,
    REINSTALL,
    Session,
    import_onnxruntime,
    installed_packages,
)
from self2self.runtime.engines.profiles import BATCHES
from self2self.runtime.engines.registry import is_installed

if TYPE_CHECKING:
    import onnx
    import torch

_MAXIMUM_BINDINGS = 16
"""Bindings that are kept. Two sets of masks and a smaller last batch need three; older ones are of freed buffers."""
_CPU_FALLBACK_MESSAGE = "assigned to the default CPU EP"
"""Part of ONNX Runtime's error about a graph that it would run on the CPU, where that is forbidden."""

_OPTIONS = {
    "device_id": "0",
    # Doubling the arena would waste up to half the memory of the device.
    "arena_extend_strategy": "kSameAsRequested",
    # The exhaustive search stalls for seconds at each new batch size.
    "cudnn_conv_algo_search": "HEURISTIC",
    # TF32 rounds float32 to 10 bits, which is too coarse for the comparison with PyTorch.
    "use_tf32": "0",
}
"""Options of the provider."""


class OrtCudaEngine(Engine):
    """ONNX Runtime with its CUDA provider."""

    name = "ort-cuda"
    library: ClassVar[str] = "libonnxruntime_providers_cuda.so"
    """File name of the provider's library; loading it by hand shows which library it lacks."""
    provider_name: ClassVar[str] = "CUDAExecutionProvider"
    device: ClassVar[str] = "cuda"
    """Device of the bound buffers."""
    runs_bf16: ClassVar[bool] = False
    """Whether the provider runs every operator in bfloat16; CUDA's lacks padding, pooling and resizing."""
    session_config: ClassVar[Mapping[str, str]] = {
        # Where the provider does not load, or accepts only a part of the graph, ONNX Runtime would silently run the
        # rest on the CPU. Every operator of our graphs has a CUDA kernel, and none computes shapes, which ONNX Runtime
        # prefers to place on the CPU.
        "session.disable_cpu_ep_fallback": "1",
    }

    _session: Any = None
    _binding: Any = None
    _buffers: dict[str, Any]
    _count = 0
    _device_bindings: dict[tuple[int, ...], Any]
    _predictions: torch.Tensor | None = None

    @classmethod
    def version(cls) -> str:
        """ONNX Runtime's version."""
        ort = cls._import(require_gpu(cls.name))
        return f"ONNX Runtime {ort.__version__}"

    @classmethod
    def device_name(cls) -> str:
        """The GPU."""
        return require_gpu(cls.name).name

    @classmethod
    def _import(cls, gpu: Gpu) -> Any:
        """ONNX Runtime, with the provider's library loaded.

        Raises:
            EngineUnavailableError: names the part that is missing or does not fit.
        """
        if not is_installed("onnxruntime"):
            raise EngineUnavailableError.of(
                cls.name,
                Obstacle.NOT_INSTALLED,
                "ONNX Runtime is not installed",
                "Install it: pip install onnxruntime-gpu.",
                instead=f"Use {typed('--engine torch')}.",
            )
        ort = import_onnxruntime(cls.name)
        if cls.provider_name not in ort.get_available_providers():
            if len(installed_packages()) > 1:
                cause, reason = Obstacle.BOTH_PACKAGES, f"{BOTH_INSTALLED}, and the one for the CPU was written last"
            else:
                cause = Obstacle.NO_PROVIDER
                reason = f"the installed ONNX Runtime {ort.__version__} has no {cls.provider_name}"
            raise EngineUnavailableError.of(cls.name, cause, reason, REINSTALL)
        require_driver(cls.name, gpu, f"ONNX Runtime {ort.__version__}", cuda_version(ort))
        cls._load_library(ort)
        return ort

    @classmethod
    def _load_library(cls, ort: Any) -> None:
        if hasattr(ort, "preload_dlls"):
            # It prints which libraries it cannot load. Stdout is for results, and the loader below reports them.
            with redirect_stdout(StringIO()):
                ort.preload_dlls()
        folder = Path(ort.__file__).parent / "capi"
        library = folder / cls.library
        if not library.is_file():
            # Windows and system packages have the library elsewhere; `prepare` then finds out whether it works.
            return
        try:
            ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
            ctypes.CDLL(str(library))
        except OSError as error:
            raise cls._library_error(error, ort) from error

    @classmethod
    def _library_error(cls, error: Exception, ort: Any) -> EngineUnavailableError:
        """The error for a provider that does not load; its cause comes from the text of `error`."""
        known = explain(str(error), "ONNX Runtime")
        if known is None:
            return EngineUnavailableError.of(cls.name, Obstacle.DOES_NOT_LOAD, first_line(error), REINSTALL)
        cuda = cuda_version(ort)
        if known.folder:
            fix = f"Type: export LD_LIBRARY_PATH={known.folder}."
        elif known.cause == Obstacle.DRIVER_TOO_OLD:
            fix = f"Install {driver_for(int(cuda.partition('.')[0] or 0))}."
        elif known.library:
            fix = cls.library_remedy(known.library, cuda)
        else:
            fix = ""
        return EngineUnavailableError.of(cls.name, known.cause, known.reason, fix)

    @classmethod
    def library_remedy(cls, library: str, cuda: str) -> str:
        """The line to type for a missing `library`; `cuda` is the CUDA version that ONNX Runtime was built for."""
        wanted = f"CUDA {cuda.partition('.')[0]} and cuDNN 9" if cuda else "CUDA and cuDNN"
        return f"It was built for {wanted}: pip install 'onnxruntime-gpu[cuda,cudnn]'."

    def provider_options(self) -> dict[str, str]:
        """Options of the provider; every option that changes numbers or memory is set."""
        return dict(_OPTIONS)

    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """Providers and their options, in the order of preference."""
        return [(self.provider_name, self.provider_options())]

    def prepare(self) -> None:
        """Create the session, and check that it did not fall back to the CPU."""
        if self.model.contract.precision == "bf16" and not self.runs_bf16:
            raise FileFormatError(
                f"{self.model.path}: ONNX Runtime does not run bf16 with CUDA. Use {typed('--engine trt')}, or "
                "export another: "
                "self2self export --precision fp16"
            )
        ort = import_onnxruntime(self.name)
        # Where cuDNN refuses an algorithm, ONNX Runtime tries another and logs that outside of the session.
        ort.set_default_logger_severity(FATAL_ONLY)
        options = ort.SessionOptions()
        # Every failure is raised as well, and reported in one line.
        options.log_severity_level = FATAL_ONLY
        for key, value in self.session_config.items():
            options.add_session_config_entry(key, value)
        try:
            # Without enable_fallback=0 a failure would print to stdout and continue on the CPU.
            self._session = ort.InferenceSession(
                str(self.model.path), options, providers=self.providers(), enable_fallback=0
            )
        except Exception as error:
            # ONNX Runtime's exceptions share no base class of their own.
            if is_out_of_memory(error):
                raise ResourceError(
                    f"out of GPU memory while loading {self.model.path}. Close other programs on the GPU, or use "
                    f"{typed('--engine ort')}."
                ) from error
            if explain(str(error), "ONNX Runtime", []) is not None:
                # The provider's libraries or the driver are at fault; sometimes only a session finds out.
                raise self._library_error(error, ort) from error
            if _CPU_FALLBACK_MESSAGE in str(error):
                raise self._fallback_error("left the model, or a part of it, to the CPU") from error
            raise FileFormatError(
                f"{self.model.path}: engine {self.name} cannot load it ({first_line(error)}). "
                f"Use {typed('--engine ort')}, or export it again: self2self export --force"
            ) from error
        running = self._session.get_providers()[0]
        if running != self.provider_name:
            raise self._fallback_error(f"fell back to {running}")
        self._binding = self._session.io_binding()
        self._buffers = {}
        self._count = 0
        self._device_bindings = {}
        image = ort.OrtValue.ortvalue_from_numpy(self.image, self.device, 0)
        self._buffers[IMAGE] = image
        self._binding.bind_ortvalue_input(IMAGE, image)

    def _fallback_error(self, how: str) -> EngineUnavailableError:
        """The error for a session that would compute on the CPU; `how` continues the sentence "ONNX Runtime ..."."""
        return EngineUnavailableError.of(
            self.name, Obstacle.FELL_BACK, f"ONNX Runtime {how}", "See what is missing: self2self engines."
        )

    def _use_image(self) -> None:
        if self._binding is not None:
            # Updated in place, because the binding holds the address.
            self._buffers[IMAGE].update_inplace(self.image)

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """Run the session on bound buffers; the next call may overwrite the result."""
        count = len(next(iter(masks.values())))
        try:
            if count != self._count:
                self._bind(count)
            for name, mask in masks.items():
                self._buffers[name].update_inplace(mask)
            self._session.run_with_iobinding(self._binding)
            # A copy from the device; a view where the buffer is in host memory.
            predictions: FloatArray = self._buffers[PREDICTION].numpy()
        except Exception as error:
            if is_out_of_memory(error):
                # These buffers have to go, so that those of a smaller batch fit.
                self._release()
            raise self._run_error(error) from error
        return predictions

    def run_on_device(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """See `device_engine.DeviceEngine`; ONNX Runtime returns when the passes have finished."""
        import torch

        count = len(next(iter(masks.values())))
        if self._predictions is None or len(self._predictions) < count:
            self._drop_predictions()
            shape = (count, *self.image.shape[1:])
            self._predictions = torch.empty(shape, dtype=torch.float32, device=self.device)
        if self._predictions.is_cuda:
            # ONNX Runtime computes on a stream of its own, which does not wait for PyTorch's streams.
            torch.cuda.current_stream().synchronize()
        predictions = self._predictions[:count]
        try:
            self._session.run_with_iobinding(self._device_binding(masks, predictions))
        except Exception as error:
            self._drop_predictions()
            raise self._run_error(error) from error
        return predictions

    def _device_binding(self, masks: Mapping[str, torch.Tensor], predictions: torch.Tensor) -> Any:
        """The binding of these buffers; it is kept, because the ensemble fills two sets of masks alternately."""
        key = (len(predictions), *(mask.data_ptr() for mask in masks.values()))
        if key not in self._device_bindings:
            if len(self._device_bindings) == _MAXIMUM_BINDINGS:
                self._device_bindings.clear()
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(IMAGE, self._buffers[IMAGE])
            for name, mask in masks.items():
                binding.bind_input(name, self.device, 0, np.bool_, list(mask.shape), mask.data_ptr())
            shape = list(predictions.shape)
            binding.bind_output(PREDICTION, self.device, 0, np.float32, shape, predictions.data_ptr())
            self._device_bindings[key] = binding
        return self._device_bindings[key]

    def _drop_predictions(self) -> None:
        # The bindings hold the address of the predictions.
        self._device_bindings = {}
        self._predictions = None

    def largest_device_batch(self) -> int:
        """The largest batch that is worth trying; ONNX Runtime itself sets no limit."""
        return BATCHES[2]

    def _run_error(self, error: Exception) -> Exception:
        """Convert an error of ONNX Runtime; an error about a wrong input, a bug of ours, is returned unchanged."""
        if is_out_of_memory(error):
            return MemoryError(first_line(error))
        if type(error).__name__ in ("Fail", "RuntimeException"):
            return FileFormatError(
                f"{self.model.path}: engine {self.name} cannot run it ({first_line(error)}). Use "
                f"{typed('--engine ort')}."
            )
        return error

    def _bind(self, count: int) -> None:
        ort = import_onnxruntime(self.name)
        self._release()
        axes = dict(zip("HW", self.image.shape[2:], strict=True))
        for spec in self.model.contract.masks:
            shape = [count, *spec.shape(axes)]
            buffer = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.bool_, self.device, 0)
            self._buffers[spec.name] = buffer
            self._binding.bind_ortvalue_input(spec.name, buffer)
        shape = [count, *self.image.shape[1:]]
        buffer = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self.device, 0)
        self._buffers[PREDICTION] = buffer
        self._binding.bind_ortvalue_output(PREDICTION, buffer)
        self._count = count

    def _release(self) -> None:
        image = self._buffers[IMAGE]
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._buffers = {IMAGE: image}
        self._binding.bind_ortvalue_input(IMAGE, image)
        self._count = 0

    def provider(self) -> str:
        """The provider that the session really uses."""
        return str(self._session.get_providers()[0])

    def close(self) -> None:
        """Free the session and the buffers."""
        self._drop_predictions()
        self._binding = self._session = None
        self._buffers = {}
        self._count = 0


def load_graph(proto: onnx.ModelProto, path: Path) -> Runner:
    """See `graphs.LoadGraph`."""
    return load_on_gpu(OrtCudaEngine, [(OrtCudaEngine.provider_name, _OPTIONS)], proto, path)


def load_on_gpu(
    engine: type[OrtCudaEngine], providers: list[tuple[str, dict[str, str]]], proto: onnx.ModelProto, path: Path
) -> Runner:
    """Load any graph for the GPU of `engine`; operators without a kernel there, such as sizes, run on the CPU."""
    engine.version()
    ort = import_onnxruntime(engine.name)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=providers, enable_fallback=0)
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(first_line(error)) from error
        raise FileFormatError(
            f"{path}: engine {engine.name} cannot load it ({shown(first_line(error))}). Use the engine ort."
        ) from error
    if session.get_providers()[0] != engine.provider_name:
        raise EngineUnavailableError.of(
            engine.name,
            Obstacle.FELL_BACK,
            f"ONNX Runtime fell back to {session.get_providers()[0]}",
            "See what is missing: self2self engines.",
            instead="Use the engine ort.",
        )
    return Session(session)


def cuda_version(ort: Any) -> str:
    """CUDA version that ONNX Runtime was built for; ``""`` if unknown."""
    try:
        from onnxruntime.capi import build_and_package_info
    except ImportError:
        return ""
    return str(getattr(build_and_package_info, "cuda_version", "") or "")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of ONNX Runtime means that host or device memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "failed to allocate" in text
