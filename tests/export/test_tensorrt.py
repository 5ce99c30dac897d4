"""TensorRT's builder, run through TensorRT-RTX, which needs no GPU to build."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest

from self2self.contract import IMAGE, INPUT_MASK, Contract
from self2self.errors import EngineUnavailableError, FileFormatError, UsageError
from self2self.export.engine_cache import Loaded, Request, find_covering, load_or_build, request_for
from self2self.export.engine_file import EngineFile
from self2self.export.tensorrt import (
    TENSORRT,
    TENSORRT_RTX,
    Built,
    Library,
    build,
    logger_of,
    named_capabilities,
    parse,
)
from self2self.export.to_onnx import _write_axes, build_model, serialise, to_onnx
from self2self.nvidia import Gpu
from self2self.profiles import Profile, Shape
from self2self.train.recipes import recipe_for
from tests.conftest import Fitted, MakeFitted
from tests.test_cli import run_cli, template, work

__all__ = ["template", "work"]

trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")

PAPER: dict[str, Any] = {"encoder_width": 48, "decoder_widths": (96, 96, 96, 96, 96)}
FAST = recipe_for("fast")
NARROW: dict[str, Any] = {"encoder_width": FAST.encoder_width, "decoder_widths": FAST.decoder_widths}
DYNAMIC = Profile((64, 64), (64, 96), (128, 160), (1, 2, 4))
FIXED = Profile.fixed((64, 96), (1, 2, 4))
CARD = Gpu("NVIDIA RTX 4090", (8, 9), 24 * 2**30, (13, 0))


@pytest.fixture
def model(tiny_onnx: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, whose folder may be written to."""
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    return path


def keep(data: bytes) -> bytes:
    """Stands in for loading an engine, which takes a GPU."""
    return data


class Notes(list[str]):
    """Collects what is told."""

    def __call__(self, text: str) -> None:
        self.append(text)


def wanted(path: Path, fitted: Fitted, profile: Profile = FIXED, **options: Any) -> Request:
    return request_for(TENSORRT_RTX, path, fitted.contract, profile, **options)


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


@pytest.fixture(scope="module")
def traced(fitted: Fitted, precision: str) -> tuple[Fitted, onnx.ModelProto]:
    """A network in a precision, and its graph, which takes seconds to trace."""
    lower = replace(fitted, contract=replace(fitted.contract, precision=precision))
    return lower, build_model(lower.network, lower.contract)


@pytest.mark.parametrize("size", [None, (64, 96)], ids=["dynamic", "fixed"])
def test_graphs_parse_and_build(traced: tuple[Fitted, onnx.ModelProto], size: tuple[int, int] | None) -> None:
    fitted, model = traced
    # All that `build_model` does for a size after the trace.
    _write_axes(model.graph, fitted.contract, size)
    data, profile = serialise(model), FIXED if size else DYNAMIC
    network = parse(TENSORRT_RTX, data, "model.onnx").network
    check_inputs(network, fitted, size)
    kinds = {network.get_layer(index).type.name for index in range(network.num_layers)}
    assert not any("DROPOUT" in kind or "FILL" in kind for kind in kinds), kinds
    assert kinds <= set(trt.LayerType.__members__)
    built = build(TENSORRT_RTX, data, fitted.contract, profile, source="model.onnx")
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
    # It is there to be switched off; the test fails when the library renames it.
    assert parsed.builder.create_builder_config().get_flag(trt.BuilderFlag.TF32)


def test_the_side_file_says_what_the_engine_is(model: Path, tiny: Fitted) -> None:
    request, notes = wanted(model, tiny), Notes()
    loaded = load_or_build(request, keep, notes)
    assert loaded.built
    assert notes == []
    assert loaded.path == model.parent / "engines" / "model.trt-rtx.any.64x96-b4.engine"
    assert loaded.path.read_bytes() == loaded.engine
    side = json.loads(Path(f"{loaded.path}.json").read_text())
    assert side["key"]["library"] == "tensorrt_rtx"
    assert side["key"]["library_version"] == trt.__version__
    assert side["key"]["profile"] == FIXED.to_json()
    assert side["key"]["precision"] == "fp32"
    assert side["engine_bytes"] == loaded.path.stat().st_size
    assert side["layer_count"] > 100
    assert side["build_seconds"] > 0
    assert side["key_sha256"] == request.key.sha256()
    assert EngineFile.read(Path(f"{loaded.path}.json")) == loaded.info
    assert sorted(p.name for p in loaded.path.parent.iterdir()) == [loaded.path.name, f"{loaded.path.name}.json"]
    again = load_or_build(request, keep, notes)
    assert not again.built
    assert again.engine == loaded.engine
    assert notes == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def tamper(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit_side(path: Path) -> None:
        side = Path(f"{path}.json")
        values = json.loads(side.read_text())
        change(values)
        side.write_text(json.dumps(values))

    return edit_side


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (cut, "bytes, not"),
    "empty": (lambda path: path.write_bytes(b""), "it has 0 bytes, not"),
    "tampered": (tamper, "its bytes were changed"),
    "engine missing": (lambda path: path.unlink(), "it cannot be read"),
    "side file missing": (lambda path: Path(f"{path}.json").unlink(), ".engine.json is missing"),
    "side file damaged": (lambda path: Path(f"{path}.json").write_text("{"), ".engine.json is damaged"),
    "side file of another kind": (lambda path: Path(f"{path}.json").write_text("[]"), ".engine.json is damaged"),
    "other library version": (
        edit(lambda v: v["key"].update(library_version="0.9")),
        "it was built for library version 0.9, not ",
    ),
    "foreign GPU": (edit(lambda v: v["key"].update(gpu="H100 9.0")), "it was built for GPU H100 9.0, not none"),
    "other precision": (edit(lambda v: v["key"].update(precision="fp16")), "precision fp16, not fp32"),
    "other shapes": (
        edit(lambda v: v["key"]["profile"].update(batches=[1, 1, 1])),
        "it was built for shapes 64x96-b1, not 64x96-b4",
    ),
    "stale": (
        lambda path: edit(lambda v: v["key"].update(model_sha256="0"))(path),
        "it was built from another version of the model",
    ),
}


@pytest.fixture(scope="module")
def finished(tiny: Fitted, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded[bytes]:
    """One engine whose bytes stand for those of any build."""
    model = tmp_path_factory.mktemp("engine") / "model.onnx"
    model.write_bytes(tiny_onnx.read_bytes())
    return load_or_build(wanted(model, tiny), keep, Notes())


@pytest.fixture
def quick_build(finished: Loaded[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every build gives the bytes of one that was made before, because a build takes a second."""
    built = Built(finished.engine, finished.info.layer_count, finished.info.build_seconds)
    monkeypatch.setattr("self2self.export.engine_cache.build", lambda *_, **__: built)


@pytest.mark.parametrize("case", DAMAGE)
def test_unusable_engines_are_built_again(case: str, model: Path, tiny: Fitted, quick_build: None) -> None:
    damage, text = DAMAGE[case]
    request, notes = wanted(model, tiny), Notes()
    path = load_or_build(request, keep, notes).path
    damage(path)
    loaded = load_or_build(request, keep, notes)
    assert loaded.built
    assert len(notes) == 1, notes
    assert text in notes[0]
    assert notes[0].startswith(f"{path}: ")
    assert notes[0].endswith("building it again.")
    assert "\n" not in notes[0]
    assert not load_or_build(request, keep, notes).built
    assert len(notes) == 1


def test_an_engine_of_an_older_export_is_really_built_again(make_fitted: MakeFitted, model: Path, tiny: Fitted) -> None:
    old, notes = load_or_build(wanted(model, tiny), keep, Notes()), Notes()
    other = make_fitted(seed=9)
    to_onnx(other.network, other.contract, model)
    new = load_or_build(wanted(model, other), keep, notes)
    assert new.built
    assert new.path == old.path
    assert new.info.key.model_sha256 != old.info.key.model_sha256
    assert "another version of the model" in notes[0]


def test_an_engine_that_the_library_refuses_is_built_again(model: Path, tiny: Fitted, quick_build: None) -> None:
    request, notes = wanted(model, tiny), Notes()
    load_or_build(request, keep, notes)
    answers = [None, b"good"]
    assert load_or_build(request, lambda _: answers.pop(0), notes).engine == b"good"
    assert "TensorRT-RTX refuses to load it; building it again." in notes[0]
    with pytest.raises(EngineUnavailableError, match=r"refuses the engine that it has just built.*--engine ort"):
        load_or_build(request, lambda _: None, notes)


def test_an_engine_that_cannot_be_kept_is_used_all_the_same(model: Path, tiny: Fitted, quick_build: None) -> None:
    (model.parent / "engines").write_text("a file where the folder should be")
    notes = Notes()
    loaded = load_or_build(wanted(model, tiny), keep, notes)
    assert loaded.built
    assert "cannot be kept and will be built again next time" in notes[0]


def test_named_compute_capabilities(model: Path, tiny: Fitted) -> None:
    assert {"7.5", "8.0", "8.6", "8.9", "12.0"} <= named_capabilities(trt).keys()
    loaded = load_or_build(wanted(model, tiny, capabilities=("8.9", "8.6")), keep, Notes())
    assert loaded.path.name == "model.trt-rtx.8-6-8-9.64x96-b4.engine"
    assert loaded.info.key.capabilities == ("8.6", "8.9")
    with pytest.raises(UsageError, match=r"has no compute capability 9\.0; expected some of: 7\.5, 8\.0"):
        wanted(model, tiny, capabilities=("9.0",))


def test_an_engine_for_a_range_serves_the_sizes_in_it(model: Path, tiny: Fitted, quick_build: None) -> None:
    ahead = load_or_build(wanted(model, tiny, DYNAMIC), keep, Notes())
    one_size = wanted(model, tiny, Profile.fixed((96, 128), (1, 8, 32)))
    found = find_covering(one_size, (96, 128), "8.9")
    assert found is not None
    assert found.engine_path == ahead.path
    assert not load_or_build(found, keep, Notes()).built
    assert find_covering(one_size, (96, 192), "8.9") is None, "wider than the range"
    assert find_covering(wanted(model, tiny, capabilities=("7.5",)), (96, 128), "7.5") is None, "Turing must be named"
    cut(ahead.path)
    assert find_covering(one_size, (96, 128), "8.9") is None, "truncated"


def test_an_engine_for_named_capabilities_serves_those_alone(model: Path, tiny: Fitted, quick_build: None) -> None:
    ahead = load_or_build(wanted(model, tiny, capabilities=("8.6",)), keep, Notes())
    request = wanted(model, tiny)
    found = find_covering(request, (64, 96), "8.6")
    assert found is not None
    assert found.engine_path == ahead.path
    assert find_covering(request, (64, 96), "8.9") is None


@pytest.mark.parametrize(
    ("profile", "fixed", "text"),
    [
        (Profile.fixed((60, 96)), None, r"for 60x96; expected multiples of 32 from 64 up, for example 64x96"),
        (Profile.fixed((32, 96)), None, r"for 32x96; expected multiples of 32 from 64 up"),
        (Profile((128, 64), (64, 64), (128, 64)), None, "heights of the engine are 128, 64, 128; expected least, best"),
        (Profile((64, 64), (64, 96), (64, 64)), None, "widths of the engine are 64, 96, 64"),
        (Profile.fixed((64, 96), (4, 2, 8)), None, "batches of the engine are 4, 2, 8"),
        (Profile.fixed((64, 96), (0, 1, 8)), None, "least batch is 0; expected at least 1"),
        (Profile.fixed((64, 128)), (64, 96), "for 64x128: the model is fixed to 64x96"),
    ],
)
def test_wrong_profiles_are_refused(
    profile: Profile, fixed: tuple[int, int] | None, text: str, model: Path, tiny: Fitted
) -> None:
    with pytest.raises(UsageError, match=text):
        wanted(model, tiny, profile, fixed_size=fixed)
    assert not (model.parent / "engines").exists()


def test_the_profile_follows_from_the_contract(tiny: Fitted) -> None:
    shapes = DYNAMIC.shapes(tiny.contract)
    assert list(shapes) == tiny.contract.input_names()
    assert shapes[IMAGE] == ((1, 3, 64, 64), (1, 3, 64, 96), (1, 3, 128, 160))
    assert shapes["dropout_mask_0"] == ((1, 8, 4, 4), (2, 8, 4, 6), (4, 8, 8, 10))


def test_a_graph_that_cannot_be_read() -> None:
    with pytest.raises(FileFormatError, match=r"m\.onnx: TensorRT-RTX .* cannot read its graph .*self2self export"):
        parse(TENSORRT_RTX, b"not a model", "m.onnx")


class Contradiction(Profile):
    """Shapes that the graph cannot have, which `Profile` does not make."""

    def shapes(self, contract: Contract) -> dict[str, tuple[Shape, Shape, Shape]]:
        return {**super().shapes(contract), INPUT_MASK: ((1, 3, 96, 64),) * 3}


def test_a_build_that_fails_says_why(tiny: Fitted, tiny_onnx: Path) -> None:
    wrong = Contradiction((64, 64), (64, 64), (64, 64), (1, 1, 1))
    with pytest.raises(EngineUnavailableError, match=r"engine trt-rtx: .*tiny\.onnx \(.+\)\. Use --engine ort\."):
        build(TENSORRT_RTX, tiny_onnx.read_bytes(), tiny.contract, wrong, source="tiny.onnx")


# What differs between the libraries, by their module names.


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
    """The installed bindings, less some names of one of their classes, as in another version."""

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
    monkeypatch.setattr("self2self.export.tensorrt.import_module", lambda name: bindings)
    monkeypatch.setattr("self2self.export.tensorrt.logger_of", lambda _: logger_of(trt))
    request = request_for(TENSORRT, model, tiny.contract, FIXED, gpu=CARD)
    assert request.key.gpu == "NVIDIA RTX 4090 8.9"
    assert request.engine_path.name == "model.trt.nvidia-rtx-4090-8-9.64x96-b4.engine"
    # A TensorRT-RTX network is strongly typed only when asked; TensorRT 11 has no other.
    assert load_or_build(request, keep, Notes()).built
    if owner == "ComputeCapability":
        with pytest.raises(UsageError, match=r"TensorRT builds for the GPU of this machine alone.*--engine trt-rtx"):
            request_for(TENSORRT, model, tiny.contract, FIXED, gpu=CARD, capabilities=("8.6",))


def test_the_run_interface_is_the_one_that_the_engine_calls() -> None:
    """Names that `runtime.trt` uses on a GPU, which the tests here cannot run."""
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


def test_the_command_builds_beside_the_model(work: Path) -> None:
    first = json.loads(run_cli("export", "--engine", "trt-rtx", "--json", expect=0).stdout)
    assert first["built"]
    assert first["key"]["profile"]["batches"] == [1, 16, 64]
    assert Path(first["output"]).is_file()
    again = run_cli("export", "--engine", "trt-rtx", expect=0).stdout
    assert "there already" in again
    options = ["--min", "64x64", "--size", "64x96", "--max", "128x128", "--batch", "1,2,4", "--capability", "8.6"]
    other = run_cli("export", "--engine", "trt-rtx", *options, expect=0).stdout
    assert "64x64-128x128-b4.engine: built in" in other


def test_the_progress_of_a_build_is_told(tiny: Fitted, tiny_onnx: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    seen: list[tuple[str, int, int]] = []
    profile = Profile.fixed((64, 64), (1, 1, 1))
    build(
        TENSORRT_RTX,
        tiny_onnx.read_bytes(),
        tiny.contract,
        profile,
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
            tiny.contract,
            Profile.fixed((64, 64), (1, 1, 1)),
            source="m",
            on_progress=interrupt,
        )
