"""The engines for NVIDIA GPUs with their own code, on the CPU.

The buffers that engines bind are put into host memory here, and a fake TensorRT runs the graph
through ONNX Runtime from the addresses that it was given. What a GPU computes is for tests/gpu.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from self2self.machine.nvidia import Gpu
from self2self.model.contract import IMAGE, PREDICTION
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.onnxruntime.cuda import OrtCudaEngine
from self2self.runtime.engines.tensorrt.builder import Built
from self2self.runtime.engines.tensorrt.engine import TrtEngine, TrtRtxEngine
from tests.runtime.gpu_machine import CARD


class CudaOnTheCpu(OrtCudaEngine):
    """The CUDA engine with everything that names the device replaced."""

    provider_name = "CPUExecutionProvider"
    device = "cpu"
    session_config: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def version(cls) -> str:
        return "for tests"

    def provider_options(self) -> dict[str, str]:
        return {}


class FakeContext:
    """Runs an ONNX file from and to the addresses that it was given."""

    def __init__(self, data: bytes) -> None:
        import onnxruntime as ort

        self.session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.counts: list[int] = []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        inputs = {}
        for value in self.session.get_inputs():
            kind = np.float32 if value.name == IMAGE else np.bool_
            inputs[value.name] = self.view(value.name, self.shapes[value.name], kind)
        prediction = self.session.run([PREDICTION], inputs)[0]
        self.counts.append(len(prediction))
        self.view(PREDICTION, prediction.shape, np.float32)[:] = prediction
        return True

    def view(self, name: str, shape: tuple[int, ...], kind: type) -> Any:
        count = int(np.prod(shape)) * np.dtype(kind).itemsize
        raw = (ctypes.c_ubyte * count).from_address(self.addresses[name])
        return np.frombuffer(raw, kind).reshape(shape)


class FakeRuntimeCache:
    """Remembers what it was filled with."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, data: bytes) -> bool:
        self.content = data
        return True

    def serialize(self) -> bytes:
        return self.content + b"kernels"


class FakeRuntimeConfig:
    """Notes what it was told."""

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache()

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> None:
        self.cache = cache


class FakeTrtEngine:
    """An engine whose bytes are an ONNX file."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig()

    def create_execution_context(self, config: FakeRuntimeConfig | None = None) -> FakeContext:
        return FakeContext(self.data)


class FakeLogger:
    """Base of loggers."""

    Severity = SimpleNamespace(ERROR=1)


FAKE_TRT = SimpleNamespace(
    __version__="10.9",
    ILogger=FakeLogger,
    Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=FakeTrtEngine),
    DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
)


class Module:
    """Hashable, as modules are."""

    def __getattr__(self, name: str) -> Any:
        return getattr(FAKE_TRT, name)


MODULE = Module()


def fake_trt(name: str) -> Module:
    assert name in ("tensorrt", "tensorrt_rtx")
    return MODULE


class OnTheCpu:
    """Replaces what names the device in the TensorRT engines."""

    device = "cpu"

    @classmethod
    def version(cls) -> str:
        return "for tests"

    def _gpu(self) -> Gpu:
        return CARD

    def _new_stream(self) -> None:
        return None

    def _stream_handle(self) -> int:
        return 0

    def _current_stream_handle(self) -> int:
        return 0

    def _on_stream(self) -> AbstractContextManager[None]:
        return nullcontext()


class TrtOnTheCpu(OnTheCpu, TrtEngine):  # type: ignore[misc]
    """TensorRT, fake."""


class RtxOnTheCpu(OnTheCpu, TrtRtxEngine):  # type: ignore[misc]
    """TensorRT-RTX, fake."""


def on_the_cpu(kind: type[Engine], monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    """One of the engines above, with the fake TensorRT in place if it is TensorRT's."""
    if issubclass(kind, TrtEngine):
        monkeypatch.setattr("self2self.runtime.engines.tensorrt.builder.import_module", lambda name: fake_trt(name))
        monkeypatch.setattr(
            "self2self.runtime.engines.tensorrt.cache.build", lambda _, data, *rest, **options: Built(data, 1, 0.5)
        )
    return kind
