"""Checks the builder with TensorRT-RTX, which needs no GPU to build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from self2self.errors import EngineUnavailableError, FileFormatError, UsageError
from self2self.export.to_onnx import build_model, serialise
from self2self.machine.nvidia import Gpu
from self2self.model.contract import IMAGE, INPUT_MASK, Contract
from self2self.runtime.engines.profiles import Profile, Shape
from self2self.runtime.engines.tensorrt.builder import TENSORRT, TENSORRT_RTX, Library, build, logger_of, parse
from self2self.runtime.engines.tensorrt.cache import load_or_build, request_for
from self2self.train.recipes import recipe_for
from tests.conftest import Fitted, MakeFitted
from tests.runtime.engines.tensorrt.engine_requests import DYNAMIC, FIXED, Notes, keep

trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")

PAPER: dict[str, Any] = {"encoder_width": 48, "decoder_widths": (96, 96, 96, 96, 96)}
FAST = recipe_for("fast")
NARROW: dict[str, Any] = {"encoder_width": FAST.encoder_width, "decoder_widths": FAST.decoder_widths}
CARD = Gpu("NVIDIA RTX 4090", (8, 9), 24 * 2**30, (13, 0))


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def fitted(request: pytest.FixtureRequest, widths: dict[str, Any], make_fitted: MakeFitted) -> Fitted:
    made: Fitted = make_fitted(channels=request.param, **widths)
    return made


@pytest.fixture(scope="module", params=[NARROW, pytest.param(PAPER, marks=pytest.mark.slow)], ids=["narrow", "paper"])
def widths(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


@pytest.mark.parametrize("size", [None, (64, 96)], ids=["dynamic", "fixed"])
def test_graphs_parse_and_build(fitted: Fitted, precision: str, size: tuple[int, int] | None) -> None:
    fitted = replace(fitted, contract=replace(fitted.contract, precision=precision))
    data, profile = serialise(build_model(fitted.network, fitted.contract, size)), FIXED if size else DYNAMIC
    network = parse(TENSORRT_RTX, data, "model.onnx").network
    check_inputs(network, fitted, size)
    kinds = {network.get_layer(index).type.name for index in range(network.num_layers)}
    assert not any("DROPOUT" in kind or "FILL" in kind for kind in kinds), kinds
    assert kinds <= set(trt.LayerType.__members__)
    built = build(TENSORRT_RTX, data, profile.shapes(fitted.contract), source="model.onnx")
    assert built.layer_count == network.num_layers
    weights = sum(weight.numel() for weight in fitted.network.parameters())
    half = fitted.contract.precision == "fp16"
    assert len(built.data) > (2 if half else 4) * weights
    types = [network.get_layer(i).get_output(0).dtype for i in range(network.num_layers)]
    assert (trt.DataType.HALF in types) == half
    assert built.seconds > 0


def check_inputs(network: Any, fitted: Fitted, size: tuple[int, int] | None) -> None:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    assert [tensor.name for tensor in tensors] == fitted.contract.input_names()
    axes = None if size is None else {"H": size[0], "W": size[1]}
    for tensor, spec in zip(tensors[1:], fitted.contract.masks, strict=True):
        assert tensor.dtype == trt.DataType.BOOL
        expected = [d if isinstance(d, int) else -1 for d in spec.dims] if axes is None else list(spec.shape(axes))
        assert list(tensor.shape) == [-1, *expected]
    assert tensors[0].dtype == trt.DataType.FLOAT
    assert list(tensors[0].shape) == [1, fitted.contract.channels, *(size or (-1, -1))]
    assert network.num_outputs == 1
    assert network.get_output(0).dtype == trt.DataType.FLOAT


def test_networks_are_strongly_typed_and_without_tf32(tiny: Fitted, tiny_onnx: Path) -> None:
    parsed = parse(TENSORRT_RTX, tiny_onnx.read_bytes(), "tiny")
    assert parsed.network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    # The flag exists and is on by default; the test fails when the library renames it.
    assert parsed.builder.create_builder_config().get_flag(trt.BuilderFlag.TF32)


def test_the_profile_follows_from_the_contract(tiny: Fitted) -> None:
    shapes = DYNAMIC.shapes(tiny.contract)
    assert list(shapes) == tiny.contract.input_names()
    assert shapes[IMAGE] == ((1, 3, 64, 64), (1, 3, 64, 96), (1, 3, 128, 160))
    assert shapes["dropout_mask_0"] == ((1, 8, 4, 4), (2, 8, 4, 6), (4, 8, 8, 10))


def test_a_graph_that_cannot_be_read() -> None:
    with pytest.raises(FileFormatError, match=r"m\.onnx: TensorRT-RTX .* cannot read its graph .*self2self export"):
        parse(TENSORRT_RTX, b"not a model", "m.onnx")


class Contradiction(Profile):
    """A profile with shapes that the graph cannot have; `Profile` itself never has such shapes."""

    def shapes(self, contract: Contract) -> dict[str, tuple[Shape, Shape, Shape]]:
        return {**super().shapes(contract), INPUT_MASK: ((1, 3, 96, 64),) * 3}


def test_a_build_that_fails_says_why(tiny: Fitted, tiny_onnx: Path) -> None:
    wrong = Contradiction((64, 64), (64, 64), (64, 64), (1, 1, 1))
    with pytest.raises(EngineUnavailableError, match=r"engine trt-rtx: .*tiny\.onnx \(.+\)\. Use --engine ort\."):
        build(TENSORRT_RTX, tiny_onnx.read_bytes(), wrong.shapes(tiny.contract), source="tiny.onnx")


def test_the_progress_of_a_build_is_told(tiny: Fitted, tiny_onnx: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    seen: list[tuple[str, int, int]] = []
    profile = Profile.fixed((64, 64), (1, 1, 1))
    build(
        TENSORRT_RTX,
        tiny_onnx.read_bytes(),
        profile.shapes(tiny.contract),
        source="m",
        on_progress=lambda *report: seen.append(report),
    )
    assert seen, "TensorRT-RTX has a progress monitor and said nothing"
    assert all(phase and 1 <= done <= total for phase, done, total in seen)
    assert any(done == total for _, done, total in seen)


def test_an_interruption_ends_a_build(tiny: Fitted, tiny_onnx: Path) -> None:
    pytest.importorskip("tensorrt_rtx")

    def interrupt(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(
            TENSORRT_RTX,
            tiny_onnx.read_bytes(),
            Profile.fixed((64, 64), (1, 1, 1)).shapes(tiny.contract),
            source="m",
            on_progress=interrupt,
        )


# Differences between the two libraries and their versions.


def test_a_missing_module_is_one_line() -> None:
    absent = Library("trt", "no_such_tensorrt", "TensorRT", "tensorrt", builds_without_gpu=False)
    with pytest.raises(EngineUnavailableError) as caught:
        absent.load()
    assert str(caught.value) == (
        "engine trt: TensorRT is not installed. Install it: pip install tensorrt. Or use --engine ort."
    )


def test_tensorrt_builds_on_its_gpu_alone(model: Path, tiny: Fitted) -> None:
    with pytest.raises(EngineUnavailableError, match=r"engine trt: .* here is none\. Use --engine trt-rtx"):
        request_for(TENSORRT, model, tiny.contract, FIXED)


class Without:
    """The installed bindings without some names of one class, as in another version."""

    def __init__(self, owner: str, *names: str) -> None:
        self._owner, self._names = owner, names

    def __getattr__(self, name: str) -> Any:
        value = getattr(trt, name)
        if name == self._owner:
            members = {k: m for k, m in value.__members__.items() if k not in self._names}
            return SimpleNamespace(__members__=members, **members)
        return value


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        ("NetworkDefinitionCreationFlag", ["STRONGLY_TYPED"]),
        ("BuilderFlag", ["TF32"]),
        ("ComputeCapability", list(trt.ComputeCapability.__members__)),
    ],
)
def test_names_that_a_version_lacks(
    owner: str, names: list[str], model: Path, tiny: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindings = Without(owner, *names)
    monkeypatch.setattr("self2self.runtime.engines.tensorrt.builder.import_module", lambda name: bindings)
    monkeypatch.setattr("self2self.runtime.engines.tensorrt.builder.logger_of", lambda _: logger_of(trt))
    request = request_for(TENSORRT, model, tiny.contract, FIXED, gpu=CARD)
    assert request.key.gpu == "NVIDIA RTX 4090 8.9"
    assert request.engine_path.name == "model.trt.nvidia-rtx-4090-8-9.64x96-b1-2-4.engine"
    # TensorRT-RTX makes a strongly typed network only on demand; TensorRT 11 makes no other.
    assert load_or_build(request, keep, Notes()).built
    if owner == "ComputeCapability":
        with pytest.raises(UsageError, match=r"TensorRT builds for the GPU of this machine alone.*--engine trt-rtx"):
            request_for(TENSORRT, model, tiny.contract, FIXED, gpu=CARD, capabilities=("8.6",))


def test_the_run_interface_is_the_one_that_the_engine_calls() -> None:
    """Checks the names that `tensorrt.engine` uses on a GPU, because tests without a GPU cannot call them."""
    for owner, names in {
        "Runtime": ["deserialize_cuda_engine"],
        "ICudaEngine": ["create_execution_context", "create_runtime_config"],
        "IExecutionContext": ["set_input_shape", "set_tensor_address", "execute_async_v3"],
        "IRuntimeConfig": [
            "create_runtime_cache",
            "set_runtime_cache",
            "dynamic_shapes_kernel_specialization_strategy",
        ],
        "IRuntimeCache": ["serialize", "deserialize"],
    }.items():
        missing = [name for name in names if not hasattr(getattr(trt, owner), name)]
        assert not missing, f"{owner} has no {missing}"
    assert trt.DynamicShapesKernelSpecializationStrategy.EAGER is not None
    assert isinstance(trt, ModuleType)
