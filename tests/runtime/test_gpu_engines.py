"""The engines for NVIDIA GPUs, without one: what is missing is told apart, and their own code runs on the CPU.

The buffers that engines bind are put into host memory here, and a fake TensorRT runs the graph
through ONNX Runtime from the addresses that it was given. What a GPU computes is for tests/gpu.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from self2self import nvidia
from self2self.contract import IMAGE, PREDICTION
from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle
from self2self.export.tensorrt import Built
from self2self.masks import BoolArray, MaskMaker
from self2self.nvidia import Gpu, find_gpu
from self2self.profiles import profile_for
from self2self.runtime import gpu as gpu_checks
from self2self.runtime import ort_cuda
from self2self.runtime.engine import NEEDS_GPU, Engine, FloatArray, engine_class
from self2self.runtime.model import Model, load_model
from self2self.runtime.ort import OrtEngine
from self2self.runtime.ort_cuda import OrtCudaEngine
from self2self.runtime.ort_trt import OrtTrtEngine
from self2self.runtime.trt import TrtEngine, TrtRtxEngine
from tests.conftest import Fitted

CARD = Gpu("NVIDIA RTX 4090", (8, 9), 24 * 2**30, (13, 0))
SIZE = (64, 96)


# The driver.


class FakeDriver:
    """libcuda of a machine with one GPU, or with what a test asks for."""

    def __init__(self, status: int = 0, count: int = 1, cuda: int = 12040) -> None:
        self.status, self.count, self.cuda = status, count, cuda

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, count: Any) -> None:  # noqa: N802
        count._obj.value = self.count

    def cuDeviceGet(self, device: Any, index: int) -> None:  # noqa: N802
        device._obj.value = index

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> None:  # noqa: N802
        name.value = b"NVIDIA RTX 4090"

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> None:  # noqa: N802
        memory._obj.value = 24 * 2**30

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> None:  # noqa: N802
        value._obj.value = {75: 8, 76: 9}[attribute]

    def cuDriverGetVersion(self, version: Any) -> None:  # noqa: N802
        version._obj.value = self.cuda


def test_the_driver_describes_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_open_driver", lambda name: FakeDriver())
    assert find_gpu() == Gpu("NVIDIA RTX 4090", (8, 9), 24 * 2**30, (12, 4))


@pytest.mark.parametrize(
    ("driver", "text"),
    [
        (FakeDriver(status=100), "the NVIDIA driver finds no GPU"),
        (FakeDriver(count=0), "the NVIDIA driver finds no GPU"),
        (FakeDriver(status=999), r"the NVIDIA driver does not start \(CUDA error 999\)"),
    ],
)
def test_drivers_without_a_gpu(driver: FakeDriver, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_open_driver", lambda name: driver)
    for name in NEEDS_GPU:
        with pytest.raises(EngineUnavailableError, match=rf"^engine {name}: {text}\. .*Use --engine ort\.$"):
            engine_class(name).version()


@pytest.mark.parametrize("name", NEEDS_GPU)
def test_a_machine_without_a_driver_is_told_so_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(library: str) -> Any:
        raise OSError(f"{library}: cannot open shared object file")

    monkeypatch.setattr(nvidia, "_open_driver", missing)
    start = time.perf_counter()
    with pytest.raises(EngineUnavailableError) as caught:
        engine_class(name).version()
    assert time.perf_counter() - start < 0.5
    message = str(caught.value)
    assert message.startswith(f"engine {name}: there is no NVIDIA driver")
    assert message.endswith("Use --engine ort.")
    assert "\n" not in message


# What else may be missing.


def problem_of(engine: type[Engine]) -> str:
    with pytest.raises(EngineUnavailableError) as caught:
        engine.version()
    message = str(caught.value)
    assert message.startswith(f"engine {engine.name}: ")
    assert "\n" not in message
    return message


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "find_gpu", lambda: CARD)


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make pip's records hold the packages `names` alone."""

    def distribution(name: str) -> object:
        if name not in names:
            raise PackageNotFoundError(name)
        return object()

    monkeypatch.setattr("importlib.metadata.distribution", distribution)


@pytest.mark.parametrize(("engine", "package"), [(TrtEngine, "tensorrt"), (TrtRtxEngine, "tensorrt-rtx")])
def test_tensorrt_is_not_installed(
    engine: type[TrtEngine], package: str, card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("self2self.runtime.trt.is_installed", lambda module: False)
    assert f"is not installed. Install it: pip install {package}. Use --engine ort." in problem_of(engine)


def test_the_driver_is_too_old_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "find_gpu", lambda: Gpu("NVIDIA RTX 3090", (8, 6), 2**34, (12, 4)))
    monkeypatch.setattr("self2self.runtime.trt.is_installed", lambda module: True)
    installed(monkeypatch, "tensorrt_rtx_cu13")
    assert (
        "the NVIDIA driver is too old: it runs CUDA 12.4, and TensorRT-RTX needs CUDA 13. "
        "Install driver 580 or newer. Use --engine ort."
    ) in problem_of(TrtRtxEngine)


def test_a_gpu_that_tensorrt_rtx_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    monkeypatch.setattr(gpu_checks, "find_gpu", lambda: Gpu("NVIDIA H100", (9, 0), 2**36, (13, 0)))
    assert "TensorRT-RTX does not run on NVIDIA H100 (compute capability 9.0). TensorRT does: --engine trt." in (
        problem_of(TrtRtxEngine)
    )


def test_pytorch_for_cpus_is_not_enough(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a build for CPUs. Install the one for CUDA: pip install" in problem_of(TrtRtxEngine)


def fake_onnxruntime(*providers: str, folder: Path = Path("nowhere")) -> SimpleNamespace:
    return SimpleNamespace(
        __version__="1.31", __file__=str(folder / "__init__.py"), get_available_providers=lambda: list(providers)
    )


@pytest.mark.parametrize("engine", [OrtCudaEngine, OrtTrtEngine])
@pytest.mark.parametrize(
    ("packages", "text"),
    [
        (("onnxruntime", "onnxruntime-gpu"), "both onnxruntime and onnxruntime-gpu are installed"),
        (("onnxruntime",), "the installed ONNX Runtime 1.31 has no"),
    ],
)
def test_the_wrong_onnxruntime_package(
    engine: type[OrtCudaEngine], packages: tuple[str, ...], text: str, card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_cuda, "import_onnxruntime", lambda name: fake_onnxruntime("CPUExecutionProvider"))
    installed(monkeypatch, *packages)
    problem = problem_of(engine)
    assert text in problem
    assert "pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu. Use --engine ort." in problem


def test_the_driver_is_too_old_for_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "find_gpu", lambda: Gpu("NVIDIA RTX 3090", (8, 6), 2**34, (11, 8)))
    monkeypatch.setattr(ort_cuda, "import_onnxruntime", lambda name: fake_onnxruntime("CUDAExecutionProvider"))
    monkeypatch.setattr(ort_cuda, "cuda_version", lambda ort: "12.8")
    assert "it runs CUDA 11.8, and ONNX Runtime 1.31 needs CUDA 12. Install driver 525" in problem_of(OrtCudaEngine)


@pytest.mark.parametrize(
    ("engine", "missing", "remedy"),
    [
        (OrtCudaEngine, "libcublasLt.so.12", "It was built for CUDA 12 and cuDNN 9: pip install 'onnxruntime-gpu["),
        (OrtTrtEngine, "libcudnn.so.9", "It was built for CUDA 12 and cuDNN 9: pip install 'onnxruntime-gpu["),
        (OrtTrtEngine, "libnvinfer.so.10", "Install TensorRT: pip install 'tensorrt==10.*'."),
    ],
)
def test_libraries_that_the_provider_misses(
    engine: type[OrtCudaEngine], missing: str, remedy: str, tmp_path: Path, card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / engine.library).touch()
    ort = fake_onnxruntime(engine.provider_name, folder=tmp_path)

    def load(path: str, mode: int = 0) -> None:
        if path.endswith(engine.library):
            raise OSError(f"{missing}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ort_cuda, "import_onnxruntime", lambda name: ort)
    monkeypatch.setattr(ort_cuda, "cuda_version", lambda ort: "12.8")
    monkeypatch.setattr(ort_cuda.ctypes, "CDLL", load)
    problem = problem_of(engine)
    assert f"ONNX Runtime needs {missing}, which is not there. {remedy}" in problem
    assert problem.endswith("Use --engine ort.")


# Their own code, on host memory.


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


@pytest.fixture
def model(tiny_onnx: Path, tmp_path: Path) -> Model:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    return load_model(path)


@pytest.fixture
def image() -> FloatArray:
    return np.random.default_rng(2).random((1, 3, *SIZE), dtype=np.float32)


@pytest.fixture(params=[CudaOnTheCpu, TrtOnTheCpu, RtxOnTheCpu])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    kind: type[Engine] = request.param
    if issubclass(kind, TrtEngine):
        monkeypatch.setattr("self2self.export.tensorrt.import_module", lambda name: fake_trt(name))
        monkeypatch.setattr(
            "self2self.export.engine_cache.build", lambda _, data, *rest, **options: Built(data, 1, 0.5)
        )
    return kind


class Module:
    """Hashable, as modules are."""

    def __getattr__(self, name: str) -> Any:
        return getattr(FAKE_TRT, name)


MODULE = Module()


def fake_trt(name: str) -> Module:
    assert name in ("tensorrt", "tensorrt_rtx")
    return MODULE


def masks_of(model: Model, first: int, count: int) -> dict[str, BoolArray]:
    return MaskMaker(model.contract.masks, dict(zip("HW", SIZE, strict=True)), 0).make(first, count)


def expected(model: Model, image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
    with OrtEngine(model, image) as reference:
        return reference.run(masks)


def test_the_image_can_be_exchanged(engine: type[Engine], model: Model, image: FloatArray) -> None:
    with engine(model, image) as running:
        for first, other in enumerate((1 - image, image / 2)):
            running.set_image(other)
            masks = masks_of(model, first, 2 + first)
            np.testing.assert_allclose(running.run(masks), expected(model, other, masks), rtol=0, atol=1e-5)


def test_batches_that_grow_and_shrink(engine: type[Engine], model: Model, image: FloatArray) -> None:
    with engine(model, image) as running:
        for first, count in enumerate((2, 5, 1, 5, 3)):
            masks = masks_of(model, first, count)
            got = running.run(masks)
            np.testing.assert_allclose(got, expected(model, image, masks), rtol=0, atol=1e-5)
        running.close()
    running.close()


@pytest.mark.parametrize("engine", [TrtOnTheCpu, RtxOnTheCpu], indirect=True)
def test_results_are_not_overwritten_by_the_next_run(engine: type[Engine], model: Model, image: FloatArray) -> None:
    with engine(model, image) as running:
        first = running.run(masks_of(model, 0, 2))
        kept = first.copy()
        running.run(masks_of(model, 7, 2))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("engine", [TrtOnTheCpu], indirect=True)
def test_a_batch_above_the_engines_largest_is_split(engine: type[TrtEngine], model: Model, image: FloatArray) -> None:
    with engine(model, image) as running:
        masks = masks_of(model, 0, 67)
        got = running.run(masks)
        assert running._context.counts == [64, 3]
        np.testing.assert_allclose(got, expected(model, image, masks), rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", [TrtOnTheCpu], indirect=True)
def test_the_engine_is_kept_beside_the_model(engine: type[TrtEngine], model: Model, image: FloatArray) -> None:
    notes: list[str] = []
    for _ in range(2):
        running = engine(model, image)
        running.note = notes.append
        with running:
            assert running.provider() == "TensorRT 10.9 on NVIDIA RTX 4090"
    assert len(notes) == 1
    assert notes[0].startswith("building the TensorRT engine model.trt.nvidia-rtx-4090-8-9.64x96-b64.engine;")
    assert len(list((model.path.parent / "engines").iterdir())) == 2


@pytest.mark.parametrize("engine", [RtxOnTheCpu], indirect=True)
def test_compiled_kernels_are_kept(engine: type[TrtEngine], model: Model, image: FloatArray) -> None:
    for times in (1, 2):
        with engine(model, image) as running:
            running.run(masks_of(model, 0, 1))
        kernels = list((model.path.parent / "engines").glob("*.kernels"))
        assert [path.read_bytes() for path in kernels] == [b"kernels" * times]


@pytest.mark.parametrize("engine", [TrtOnTheCpu], indirect=True)
def test_an_execution_that_fails_says_so(
    engine: type[TrtEngine], model: Model, image: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from self2self.export.tensorrt import logger_of

    with engine(model, image) as running:
        monkeypatch.setattr(running._context, "execute_async_v3", lambda stream: False)
        logger_of(MODULE).log(1, "kernel failed\nmore")
        with pytest.raises(FileFormatError, match=r"TensorRT cannot run it \(kernel failed\)\. Remove it"):
            running.run(masks_of(model, 0, 1))
        logger_of(MODULE).log(1, "Out of memory")
        with pytest.raises(MemoryError):
            running.run(masks_of(model, 0, 1))


def test_a_fallback_to_the_cpu_is_refused(model: Model, image: FloatArray) -> None:
    class Refused(CudaOnTheCpu):
        provider_name = "CUDAExecutionProvider"

        def providers(self) -> list[tuple[str, dict[str, str]]]:
            return [("CPUExecutionProvider", {})]

    with pytest.raises(EngineUnavailableError, match="ort-cuda: ONNX Runtime fell back to CPUExecutionProvider"):
        Refused(model, image).__enter__()


def test_onnx_runtime_may_leave_nothing_to_the_cpu(
    model: Model, image: FloatArray, capfd: pytest.CaptureFixture[str]
) -> None:
    class Left(CudaOnTheCpu):
        provider_name = "CUDAExecutionProvider"
        session_config = OrtCudaEngine.session_config

        def providers(self) -> list[tuple[str, dict[str, str]]]:
            # As where the provider takes no node: ONNX Runtime adds that of the CPU.
            return []

    with pytest.raises(EngineUnavailableError, match="ONNX Runtime left the model, or a part of it, to") as caught:
        Left(model, image).__enter__()
    assert (caught.value.cause, caught.value.exit_code) == (Obstacle.FELL_BACK, 4)
    # One line, and none of ONNX Runtime's.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("engine", [OrtCudaEngine, OrtTrtEngine])
def test_every_session_forbids_the_cpu(
    engine: type[OrtCudaEngine], model: Model, image: FloatArray, card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    seen: list[tuple[str, list[str]]] = []

    def session(path: str, options: Any, providers: list[tuple[str, Any]], enable_fallback: int) -> Any:
        entry = options.get_session_config_entry("session.disable_cpu_ep_fallback")
        seen.append((entry, [name for name, _ in providers]))
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(EngineUnavailableError, match="fell back"):
        engine(model, image).prepare()
    ((entry, names),) = seen
    # The two exclude each other: ONNX Runtime refuses a session that names the CPU's provider besides.
    assert entry == "1"
    assert "CPUExecutionProvider" not in names


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_all_operators_have_a_cuda_kernel(precision: str, tiny: Fitted, tiny_onnx: Path) -> None:
    import onnx

    from self2self.export.to_onnx import build_model

    lower = replace(tiny.contract, precision=precision)
    graph = (onnx.load(tiny_onnx) if precision == "fp32" else build_model(tiny.network, lower)).graph
    # For float32 and float16 at opset 18, by docs/OperatorKernels.md of ONNX Runtime. One that works on shapes would
    # be left to the CPU, which the session forbids.
    known = {"Cast", "Concat", "Conv", "LeakyRelu", "MaxPool", "Mul", "Pad", "Resize", "Sigmoid", "Split"}
    assert {node.op_type for node in graph.node} <= known


def test_bf16_is_refused_by_cuda_and_left_to_tensorrt(tiny: Fitted, model: Model, image: FloatArray) -> None:
    lower = replace(model, contract=replace(tiny.contract, precision="bf16"))
    with pytest.raises(FileFormatError, match="does not run bf16 with CUDA"):
        OrtCudaEngine(lower, image).prepare()
    assert OrtTrtEngine.runs_bf16


def test_options_of_the_tensorrt_provider(model: Model, image: FloatArray, card: None) -> None:
    options = OrtTrtEngine(model, image).provider_options()
    assert options["trt_profile_min_shapes"].startswith("image:1x3x64x96,input_mask:1x3x64x96,dropout_mask_0:1x8x4x6,")
    assert "dropout_mask_9:64x4x64x96" in options["trt_profile_max_shapes"]
    assert options["trt_engine_cache_path"] == str(model.path.parent / "engines")
    before = options["trt_engine_cache_prefix"]
    model.path.write_bytes(model.path.read_bytes() + b"\0")
    after = OrtTrtEngine(model, image).provider_options()["trt_engine_cache_prefix"]
    assert before != after, "another fit must not get this one's engine"


def test_the_largest_batch_fits_into_the_device(model: Model) -> None:
    batches = [profile_for(model.contract, (1024, 1024), gigabytes * 2**30).batches for gigabytes in (1, 8, 1000)]
    assert batches[2] == (1, 16, 64)
    assert batches[0][2] < batches[1][2] <= 64
    assert all(least == 1 <= best <= most for least, best, most in batches)
