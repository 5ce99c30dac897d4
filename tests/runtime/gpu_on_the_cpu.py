"""The engines for NVIDIA GPUs on the CPU, to test their own code.

The buffers that engines bind are in host memory here. A fake TensorRT reads inputs from the bound addresses, runs the
graph in ONNX Runtime and writes the predictions to their address. tests/gpu tests what a GPU computes.
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
    """The engine `ort-cuda` on the CPU: everything that names the device is replaced."""

    provider_name = "CPUExecutionProvider"
    device = "cpu"
    session_config: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def version(cls) -> str:
        return "for tests"

    def provider_options(self) -> dict[str, str]:
        return {}


class FakeContext:
    """Runs an ONNX model with inputs and predictions at bound addresses."""

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
    """Keeps the bytes that it is given."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, data: bytes) -> bool:
        self.content = data
        return True

    def serialize(self) -> bytes:
        return self.content + b"kernels"


class FakeRuntimeConfig:
    """Keeps its runtime cache."""

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache()

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> None:
        self.cache = cache


class FakeTrtEngine:
    """A serialised engine, whose bytes are an ONNX model."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig()

    def create_execution_context(self, config: FakeRuntimeConfig | None = None) -> FakeContext:
        return FakeContext(self.data)


class FakeLogger:
    """Base class of loggers."""

    Severity = SimpleNamespace(ERROR=1)


FAKE_TRT = SimpleNamespace(
    __version__="10.9",
    ILogger=FakeLogger,
    Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=FakeTrtEngine),
    DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
)


class Module:
    """The fake TensorRT module; hashable, as modules are."""

    def __getattr__(self, name: str) -> Any:
        return getattr(FAKE_TRT, name)


MODULE = Module()


def fake_trt(name: str) -> Module:
    assert name in ("tensorrt", "tensorrt_rtx")
    return MODULE


class OnTheCpu:
    """Replaces everything that names the device in the TensorRT engines."""

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
    """The engine `trt` on the fake TensorRT."""


class RtxOnTheCpu(OnTheCpu, TrtRtxEngine):  # type: ignore[misc]
    """The engine `trt-rtx` on the fake TensorRT."""


def on_the_cpu(kind: type[Engine], monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    """Prepare one of the engines above: those of TensorRT need the fake module in place of the real one."""
    if issubclass(kind, TrtEngine):
        monkeypatch.setattr("self2self.runtime.engines.tensorrt.builder.import_module", lambda name: fake_trt(name))
        monkeypatch.setattr(
            "self2self.runtime.engines.tensorrt.cache.build", lambda _, data, *rest, **options: Built(data, 1, 0.5)
        )
    return kind
