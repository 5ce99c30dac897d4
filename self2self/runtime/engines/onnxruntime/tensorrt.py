"""Runs a model with ONNX Runtime on an NVIDIA GPU, through its TensorRT provider.

ONNX Runtime keeps TensorRT's engines in the same ``engines/`` folder as the native `trt` engine, under other names. The
provider cannot switch off TF32, which TensorRT uses for float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.errors import writing
from self2self.model.contract import IMAGE
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.gpu import require_gpu
from self2self.runtime.engines.graphs import Runner
from self2self.runtime.engines.onnxruntime.cuda import OrtCudaEngine, load_on_gpu
from self2self.runtime.engines.profiles import Profile, profile_for

if TYPE_CHECKING:
    import onnx


class OrtTrtEngine(OrtCudaEngine):
    """ONNX Runtime with its TensorRT provider; CUDA runs operators that TensorRT does not support."""

    name = "ort-trt"
    rounds_to = "tf32"
    library = "libonnxruntime_providers_tensorrt.so"
    provider_name = "TensorrtExecutionProvider"
    runs_bf16 = True

    @classmethod
    def _load_library(cls, ort: Any) -> None:
        # TensorRT's module loads its libraries, so that the provider's library finds them.
        # Without the module the libraries may still be installed for the whole system.
        with suppress(ImportError, OSError, RuntimeError):
            import_module("tensorrt")
        super()._load_library(ort)

    @classmethod
    def library_remedy(cls, library: str, cuda: str) -> str:
        """The line to type for a missing `library`."""
        if "nvinfer" in library or "nvonnxparser" in library:
            major = library.rpartition(".")[2]
            package = f"'tensorrt=={major}.*'" if major.isdigit() else "tensorrt"
            return f"Install TensorRT: pip install {package}."
        return super().library_remedy(library, cuda)

    def _profile(self) -> Profile:
        height, width = self.image.shape[2:]
        return profile_for(self.model.contract, (height, width), require_gpu(self.name).memory_bytes)

    def provider_options(self) -> dict[str, str]:
        """Engine cache beside the model, and one range of shapes, so that nothing is rebuilt during a run."""
        folder = self.model.path.parent / "engines"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        ranges = self._profile().shapes(self.model.contract)
        if self.model.size is not None:
            # Only inputs with free axes may have a range, and the image of a model for one size has none.
            del ranges[IMAGE]
        # ONNX Runtime's own file names ignore the weights, so another fit would get the engine of this one.
        digest = hashlib.sha256(self.model.path.read_bytes()).hexdigest()[:16]
        height, width = self.image.shape[2:]
        kinds = ("min", "opt", "max")
        shapes = {
            f"trt_profile_{kind}_shapes": ",".join(
                f"{name}:{'x'.join(map(str, shape[index]))}" for name, shape in ranges.items()
            )
            for index, kind in enumerate(kinds)
        }
        return {
            "device_id": "0",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_engine_cache_prefix": f"{digest}-{height}x{width}",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
            # TensorRT 10 gets a weakly typed network and needs these flags for the graph's types; 11 ignores them.
            "trt_fp16_enable": str(int(self.model.contract.precision == "fp16")),
            "trt_bf16_enable": str(int(self.model.contract.precision == "bf16")),
            **shapes,
        }

    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """TensorRT, then CUDA for single operators that TensorRT does not support."""
        return [(self.provider_name, self.provider_options()), ("CUDAExecutionProvider", super().provider_options())]

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """Split the batch by the engine's largest batch and run the parts; the result is a new array."""
        most = self._profile().batches[2]
        count = len(next(iter(masks.values())))
        parts = [
            super(OrtTrtEngine, self).run({name: mask[first : first + most] for name, mask in masks.items()})
            for first in range(0, count, most)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def largest_device_batch(self) -> int:
        """The largest batch that the engine is built for."""
        return self._profile().batches[2]


def load_graph(proto: onnx.ModelProto, path: Path) -> Runner:
    """See `graphs.LoadGraph`; TensorRT builds an engine for each new size, and CUDA runs what it cannot."""
    providers = [(OrtTrtEngine.provider_name, {"device_id": "0"}), (OrtCudaEngine.provider_name, {"device_id": "0"})]
    return load_on_gpu(OrtTrtEngine, providers, proto, path)
