"""ONNX Runtime on an NVIDIA GPU, through its CUDA provider.

Masks and predictions live in device buffers that are bound once for each batch size and used
again, so that a run costs one copy of the masks to the device and one of the predictions back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, ResourceError, first_line
from self2self.machine.nvidia import Gpu, driver_for
from self2self.machine.nvidia_libraries import explain
from self2self.model.contract import IMAGE, PREDICTION
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.gpu import require_driver, require_gpu
from self2self.runtime.engines.onnxruntime.cpu import BOTH_INSTALLED, REINSTALL, import_onnxruntime, installed_packages
from self2self.runtime.engines.profiles import BATCHES
from self2self.runtime.engines.registry import is_installed

if TYPE_CHECKING:
    import torch

_MOST_BINDINGS = 16
"""Two sets of masks, and a smaller last batch, take three; those of buffers that are gone are never used again."""
_NO_MESSAGES = 4
_LEFT_TO_THE_CPU = "assigned to the default CPU EP"
"""What ONNX Runtime says of a model that it may not leave to the CPU and would."""


class OrtCudaEngine(Engine):
    """ONNX Runtime with its CUDA provider."""

    name = "ort-cuda"
    library: ClassVar[str] = "libonnxruntime_providers_cuda.so"
    """The provider's own library, which tells what it misses when it is loaded by hand."""
    provider_name: ClassVar[str] = "CUDAExecutionProvider"
    device: ClassVar[str] = "cuda"
    """Where ONNX Runtime keeps the bound buffers."""
    runs_bf16: ClassVar[bool] = False
    """Whether the provider has bfloat16 for all operators; CUDA's has none for padding, pooling and resizing."""
    session_config: ClassVar[Mapping[str, str]] = {
        # Where the provider does not load, or takes a part of the graph alone, ONNX Runtime would run the rest on the
        # CPU and say nothing. All operators of our graphs have CUDA kernels, and none computes shapes, which it
        # would rather have there.
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
        """ONNX Runtime with the provider loaded.

        Raises:
            EngineUnavailableError: says which part is missing, or does not fit.
        """
        if not is_installed("onnxruntime"):
            raise EngineUnavailableError.of(
                cls.name,
                Obstacle.NOT_INSTALLED,
                "ONNX Runtime is not installed",
                "Install it: pip install onnxruntime-gpu.",
                instead="Use --engine torch.",
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
            # It prints what it cannot load, and stdout is for results; the loader tells us below.
            with redirect_stdout(StringIO()):
                ort.preload_dlls()
        folder = Path(ort.__file__).parent / "capi"
        library = folder / cls.library
        if not library.is_file():
            # Windows and system packages have it elsewhere; `prepare` then says whether it works.
            return
        try:
            ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
            ctypes.CDLL(str(library))
        except OSError as error:
            raise cls._explained(error, ort) from error

    @classmethod
    def _explained(cls, error: Exception, ort: Any) -> EngineUnavailableError:
        """What keeps the provider from working, told from what it says."""
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
        """The line that installs a missing `library`, for ONNX Runtime built for CUDA `cuda`."""
        wanted = f"CUDA {cuda.partition('.')[0]} and cuDNN 9" if cuda else "CUDA and cuDNN"
        return f"It was built for {wanted}: pip install 'onnxruntime-gpu[cuda,cudnn]'."

    def provider_options(self) -> dict[str, str]:
        """Options of the provider; all that change numbers or memory are set."""
        return {
            "device_id": "0",
            # Doubling the arena would take half the memory of the device for nothing.
            "arena_extend_strategy": "kSameAsRequested",
            # The exhaustive search stalls for seconds at each new batch size.
            "cudnn_conv_algo_search": "HEURISTIC",
            # TF32 rounds float32 to 10 bits, which the comparison with PyTorch would show.
            "use_tf32": "0",
        }

    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """Providers and their options, in the order of preference."""
        return [(self.provider_name, self.provider_options())]

    def prepare(self) -> None:
        """Create the session, and make sure that it did not fall back to the CPU."""
        if self.model.contract.precision == "bf16" and not self.runs_bf16:
            raise FileFormatError(
                f"{self.model.path}: ONNX Runtime does not run bf16 with CUDA. Use --engine trt, or export another: "
                "self2self export --precision fp16"
            )
        ort = import_onnxruntime(self.name)
        # cuDNN's refusals of single algorithms, after which ONNX Runtime tries others, go past the session's own level.
        ort.set_default_logger_severity(_NO_MESSAGES)
        options = ort.SessionOptions()
        # All that fails is raised as well, and told in one line.
        options.log_severity_level = _NO_MESSAGES
        for key, value in self.session_config.items():
            options.add_session_config_entry(key, value)
        try:
            # Without enable_fallback=0 a failure prints to stdout and goes on with the CPU.
            self._session = ort.InferenceSession(
                str(self.model.path), options, providers=self.providers(), enable_fallback=0
            )
        except Exception as error:
            # ONNX Runtime's exceptions share no base class of their own.
            if is_out_of_memory(error):
                raise ResourceError(
                    f"out of GPU memory while loading {self.model.path}. Close other programs on the GPU, or use "
                    "--engine ort."
                ) from error
            if explain(str(error), "ONNX Runtime", []) is not None:
                # Not the file's fault: the provider's libraries or the driver, where only a session finds out.
                raise self._explained(error, ort) from error
            if _LEFT_TO_THE_CPU in str(error):
                raise self._fell_back("left the model, or a part of it, to the CPU") from error
            raise FileFormatError(
                f"{self.model.path}: engine {self.name} cannot load it ({first_line(error)}). "
                "Use --engine ort, or export it again: self2self export --force"
            ) from error
        running = self._session.get_providers()[0]
        if running != self.provider_name:
            raise self._fell_back(f"fell back to {running}")
        self._binding = self._session.io_binding()
        self._buffers = {}
        self._count = 0
        self._device_bindings = {}
        image = ort.OrtValue.ortvalue_from_numpy(self.image, self.device, 0)
        self._buffers[IMAGE] = image
        self._binding.bind_ortvalue_input(IMAGE, image)

    def _fell_back(self, how: str) -> EngineUnavailableError:
        return EngineUnavailableError.of(
            self.name, Obstacle.FELL_BACK, f"ONNX Runtime {how}", "See what is missing: self2self engines."
        )

    def _use_image(self) -> None:
        if self._binding is not None:
            # In place: the binding keeps the address.
            self._buffers[IMAGE].update_inplace(self.image)

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """One session run on bound buffers; the next call may overwrite the result."""
        count = len(next(iter(masks.values())))
        try:
            if count != self._count:
                self._bind(count)
            for name, mask in masks.items():
                self._buffers[name].update_inplace(mask)
            self._session.run_with_iobinding(self._binding)
            # A copy from the device, or a view of a buffer that is in host memory.
            predictions: FloatArray = self._buffers[PREDICTION].numpy()
        except Exception as error:
            if is_out_of_memory(error):
                # The buffers of a batch that does not fit must not stay in the way of a smaller one.
                self._release()
            raise self._run_error(error) from error
        return predictions

    def run_on_device(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """As `device_ensemble.DeviceEngine` says; ONNX Runtime returns when the passes are done."""
        import torch

        count = len(next(iter(masks.values())))
        if self._predictions is None or len(self._predictions) < count:
            self._drop_predictions()
            shape = (count, *self.image.shape[1:])
            self._predictions = torch.empty(shape, dtype=torch.float32, device=self.device)
        if self._predictions.is_cuda:
            # ONNX Runtime has a stream of its own, which does not wait for those of PyTorch.
            torch.cuda.current_stream().synchronize()
        predictions = self._predictions[:count]
        try:
            self._session.run_with_iobinding(self._device_binding(masks, predictions))
        except Exception as error:
            self._drop_predictions()
            raise self._run_error(error) from error
        return predictions

    def _device_binding(self, masks: Mapping[str, torch.Tensor], predictions: torch.Tensor) -> Any:
        """What binds these buffers; kept, because the ensemble fills the same two sets of masks in turn."""
        key = (len(predictions), *(mask.data_ptr() for mask in masks.values()))
        if key not in self._device_bindings:
            if len(self._device_bindings) == _MOST_BINDINGS:
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
        # The bindings have its address.
        self._device_bindings = {}
        self._predictions = None

    def largest_device_batch(self) -> int:
        """What is worth trying; ONNX Runtime itself sets no limit."""
        return BATCHES[2]

    def _run_error(self, error: Exception) -> Exception:
        """What an error of ONNX Runtime is for the caller; a wrong input stays what it is: a bug."""
        if is_out_of_memory(error):
            return MemoryError(first_line(error))
        if type(error).__name__ in ("Fail", "RuntimeException"):
            return FileFormatError(
                f"{self.model.path}: engine {self.name} cannot run it ({first_line(error)}). Use --engine ort."
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


def cuda_version(ort: Any) -> str:
    """CUDA version that ONNX Runtime was built for; ``""`` where it does not tell."""
    try:
        from onnxruntime.capi import build_and_package_info
    except ImportError:
        return ""
    return str(getattr(build_and_package_info, "cuda_version", "") or "")


def is_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime says that host or device memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "failed to allocate" in text
