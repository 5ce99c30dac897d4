"""Checks the engines for NVIDIA GPUs without a GPU: their own code runs on the CPU, with stand-ins for libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle
from self2self.model.masks import BoolArray, MaskMaker
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.onnxruntime.cpu import OrtEngine
from self2self.runtime.engines.onnxruntime.cuda import OrtCudaEngine
from self2self.runtime.engines.onnxruntime.tensorrt import OrtTrtEngine
from self2self.runtime.engines.profiles import Profile, profile_for
from self2self.runtime.engines.tensorrt.engine import TrtEngine
from self2self.runtime.model import Model, load_model
from tests.conftest import Fitted
from tests.runtime.gpu_on_the_cpu import MODULE, CudaOnTheCpu, RtxOnTheCpu, TrtOnTheCpu, on_the_cpu

SIZE = (64, 96)


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
    return on_the_cpu(request.param, monkeypatch)


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


@pytest.mark.parametrize("engine", [TrtOnTheCpu], indirect=True)
def test_where_the_engine_for_one_size_cannot_be_used_that_for_a_range_is(
    engine: type[TrtEngine], model: Model, image: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    def used() -> Path:
        running = engine(model, image)
        running.note = notes.append
        with running:
            return running._engine_path

    one = used()
    data = one.read_bytes()
    one.unlink()
    with monkeypatch.context() as patched:
        wide = Profile((64, 64), (64, 96), (128, 128), (1, 16, 32))
        patched.setattr("self2self.runtime.engines.tensorrt.engine.profile_for", lambda *_: wide)
        ahead = used()
    assert len(notes) == 2
    for kept, expected_path in ((data, one), (data[:-1], ahead)):
        one.write_bytes(kept)
        assert used() == expected_path
        assert len(notes) == 2
    ahead.unlink()
    assert used() == one
    assert "building it again" in notes.pop()
    assert len(notes) == 2


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
    from self2self.runtime.engines.tensorrt.builder import logger_of

    with engine(model, image) as running:
        monkeypatch.setattr(running._context, "execute_async_v3", lambda stream: False)
        logger_of(MODULE).log(1, "kernel failed\nmore")
        with pytest.raises(FileFormatError, match=r"TensorRT cannot run it \(kernel failed\)\. Remove it"):
            running.run(masks_of(model, 0, 1))
        logger_of(MODULE).log(1, "Out of memory")
        with pytest.raises(MemoryError):
            running.run(masks_of(model, 0, 1))


def test_a_fallback_to_the_cpu_is_refused(model: Model, image: FloatArray) -> None:
    class ImageRefused(CudaOnTheCpu):
        provider_name = "CUDAExecutionProvider"

        def providers(self) -> list[tuple[str, dict[str, str]]]:
            return [("CPUExecutionProvider", {})]

    with pytest.raises(EngineUnavailableError, match="ort-cuda: ONNX Runtime fell back to CPUExecutionProvider"):
        ImageRefused(model, image).__enter__()


def test_onnx_runtime_may_leave_nothing_to_the_cpu(
    model: Model, image: FloatArray, capfd: pytest.CaptureFixture[str]
) -> None:
    class Left(CudaOnTheCpu):
        provider_name = "CUDAExecutionProvider"
        session_config = OrtCudaEngine.session_config

        def providers(self) -> list[tuple[str, dict[str, str]]]:
            # ONNX Runtime then adds the CPU's provider, as where the CUDA provider accepts no node.
            return []

    with pytest.raises(EngineUnavailableError, match="ONNX Runtime left the model, or a part of it, to") as caught:
        Left(model, image).__enter__()
    assert (caught.value.cause, caught.value.exit_code) == (Obstacle.FELL_BACK, 4)
    # The error is the only message; ONNX Runtime prints nothing.
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
    # ONNX Runtime refuses a session that sets this entry and names the CPU's provider, too.
    assert entry == "1"
    assert "CPUExecutionProvider" not in names


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_all_operators_have_a_cuda_kernel(precision: str, tiny: Fitted, tiny_onnx: Path) -> None:
    import onnx

    from self2self.export.to_onnx import build_model

    lower = replace(tiny.contract, precision=precision)
    graph = (onnx.load(tiny_onnx) if precision == "fp32" else build_model(tiny.network, lower)).graph
    # These have kernels for float32 and float16 at opset 18 (docs/OperatorKernels.md of ONNX Runtime). ONNX Runtime
    # would place operators on shapes on the CPU, which the session forbids.
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
