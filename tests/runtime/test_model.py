"""Checks the errors for files that are damaged, foreign or not what their metadata promise."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from self2self.errors import EngineUnavailableError, FileFormatError, InputError, ResourceError, UsageError
from self2self.export.to_onnx import to_onnx
from self2self.model.contract import LIVE_SCHEMA_VERSION, METADATA_PREFIX, SCHEMA_VERSION, Contract
from self2self.model.graph import WEIGHTS_KEY
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.onnxruntime.cpu import OrtEngine
from self2self.runtime.engines.registry import ENGINES, NEEDS_GPU, get_engine
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model, load_model
from tests.conftest import Fitted
from tests.permissions import permissions_that_count

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def changed(tiny_onnx: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """A function that applies a change to the tiny model, writes it, and returns the path."""

    def write(change: Change) -> Path:
        proto = onnx.load(tiny_onnx)
        change(proto)
        path = tmp_path / "changed.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return write


def set_metadata(key: str, value: object) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        for entry in proto.metadata_props:
            if entry.key == METADATA_PREFIX + key:
                entry.value = json.dumps(value)
                return
        raise KeyError(key)

    return change


def test_a_good_file(tiny_onnx: Path, tiny: Fitted) -> None:
    model = load_model(tiny_onnx)
    assert model == Model(tiny_onnx, tiny.contract)
    assert load_model(str(tiny_onnx)) == model


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: no such model\. Make one with: self2self fit IMAGE") as caught:
        load_model(tmp_path / "none.onnx")
    assert caught.value.exit_code == 3


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; expected an exported \.onnx file") as caught:
        load_model(tmp_path)
    assert caught.value.exit_code == 3


def test_a_file_below_a_file(tiny_onnx: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)"):
        load_model(tiny_onnx / "model.onnx")


def test_a_file_that_may_not_be_read(tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "secret.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    path.chmod(0)
    with permissions_that_count(), pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.onnx", b""),
        ("text.onnx", b"this is no model\n" * 20),
        ("zeros.onnx", bytes(1000)),
        ("random.onnx", bytes(np.random.default_rng(0).integers(0, 256, 4000, np.uint8))),
        ("png.onnx", b"\x89PNG\r\n\x1a\n" + bytes(64)),
        # For these suffixes the onnx package would choose a text format.
        ("model.json", b'{"irVersion": 8}'),
        ("model.textproto", b"ir_version: 8"),
    ],
)
def test_other_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=f"{name}: is not an ONNX file or is damaged.*self2self export") as caught:
        load_model(path)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_truncated_files(tiny_onnx: Path, tmp_path: Path, share: float) -> None:
    data = tiny_onnx.read_bytes()
    path = tmp_path / "short.onnx"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(FileFormatError, match=r"short\.onnx: .*self2self export"):
        load_model(path)


def test_a_model_of_someone_else(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(FileFormatError, match=r"foreign\.onnx: is not a self2self model \(it has no self2self metad"):
        load_model(path)


def test_no_metadata(changed: Callable[[Change], Path]) -> None:
    with pytest.raises(FileFormatError, match="has no self2self metadata"):
        load_model(changed(lambda proto: proto.ClearField("metadata_props")))


@pytest.mark.parametrize("version", [LIVE_SCHEMA_VERSION + 1, "x"])
def test_another_schema(changed: Callable[[Change], Path], version: object) -> None:
    with pytest.raises(FileFormatError, match=f"this self2self reads schema {SCHEMA_VERSION}.*Export it again"):
        load_model(changed(set_metadata("schema_version", version)))


@pytest.mark.parametrize(
    ("key", "value"),
    [("masks", 7), ("masks", []), ("masks", [{"name": "a"}]), ("channels", "many"), ("size_multiple", 0)],
)
def test_damaged_metadata(changed: Callable[[Change], Path], key: str, value: object) -> None:
    with pytest.raises(FileFormatError, match="metadata is damaged"):
        load_model(changed(set_metadata(key, value)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_damaged_weights(tiny: Fitted, tmp_path: Path, precision: str) -> None:
    path = tmp_path / "model.onnx"
    to_onnx(tiny.network, replace(tiny.contract, precision=precision), path)
    good = path.read_bytes()
    weights = sorted((t.raw_data for t in onnx.load(path).graph.initializer), key=len)[-5:]
    for place in (good.index(data) + len(data) // 2 for data in weights):
        bad = bytearray(good)
        for byte in range(place, place + 4):
            bad[byte] ^= 0x40
        path.write_bytes(bad)
        with pytest.raises(FileFormatError, match=r"model\.onnx: is damaged, or another .*self2self export") as caught:
            load_model(path)
        assert caught.value.exit_code == 6


def forget_weights(proto: onnx.ModelProto) -> None:
    kept = [entry for entry in proto.metadata_props if entry.key != WEIGHTS_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)


def test_a_file_of_a_version_without_digests(changed: Callable[[Change], Path], tiny: Fitted) -> None:
    assert load_model(changed(forget_weights)).contract == tiny.contract


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("size", [None, (64, 96)])
def test_every_form_of_export_loads(tiny: Fitted, tmp_path: Path, precision: str, size: tuple[int, int] | None) -> None:
    path = tmp_path / "model.onnx"
    contract = replace(tiny.contract, precision=precision)
    to_onnx(tiny.network, contract, path, size=size)
    assert load_model(path) == Model(path, contract, size)


@pytest.mark.parametrize("note", ["", "[]", "7", '{"head.bias": 3}', '{"head.bias": ["many", "0"]}', "[" * 100_000])
def test_a_damaged_note_about_the_weights(changed: Callable[[Change], Path], note: str) -> None:
    def damage(proto: onnx.ModelProto) -> None:
        next(entry for entry in proto.metadata_props if entry.key == WEIGHTS_KEY).value = note

    with pytest.raises(FileFormatError, match=r"\(self2self\.weights is damaged\).*self2self export"):
        load_model(changed(damage))


def rename_input(proto: onnx.ModelProto) -> None:
    proto.graph.input[2].name = "mask"


def swap_inputs(proto: onnx.ModelProto) -> None:
    inputs = list(proto.graph.input)
    del proto.graph.input[:]
    proto.graph.input.extend([inputs[0], inputs[2], inputs[1], *inputs[3:]])


def rename_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].name = "y"


def float_masks(proto: onnx.ModelProto) -> None:
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT


def half_image(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def more_channels(proto: onnx.ModelProto) -> None:
    proto.graph.input[3].type.tensor_type.shape.dim[1].dim_value += 1


def flat_image(proto: onnx.ModelProto) -> None:
    del proto.graph.input[0].type.tensor_type.shape.dim[3]


def half_fixed(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rename_input, "inputs image, input_mask, mask, dropout_mask_1"),
        (swap_inputs, "inputs image, dropout_mask_0, input_mask"),
        (rename_output, "outputs y"),
        (float_masks, "input_mask is not bool"),
        (half_image, "image is not float"),
        (more_channels, r"dropout_mask_1 has shape \[None, 7, None, None\]; expected \[None, 6, None, None\]"),
        (flat_image, "image has 3 axes"),
        (half_fixed, r"prediction has shape \[None, 3, None, None\]; expected \[None, 3, 64, None\]"),
        (set_metadata("channels", 1), r"image has shape \[1, 3, None, None\]; expected \[1, 1, None, None\]"),
    ],
)
def test_metadata_and_graph_disagree(changed: Callable[[Change], Path], change: Change, reason: str) -> None:
    with pytest.raises(FileFormatError, match=rf"graph is not what its metadata promise \({reason}.*self2self export"):
        load_model(changed(change))


def test_a_model_for_one_size(changed: Callable[[Change], Path], tiny: Fitted) -> None:
    axes = {"H": 64, "W": 96}
    dims = {"image": (3, 64, 96), "prediction": (3, 64, 96)}
    dims |= {spec.name: spec.shape(axes) for spec in tiny.contract.masks}

    def fix(proto: onnx.ModelProto) -> None:
        for value in (*proto.graph.input, *proto.graph.output):
            for dim, length in zip(value.type.tensor_type.shape.dim[1:], dims[value.name], strict=True):
                dim.dim_value = length

    model = load_model(changed(fix))
    assert model.size == (64, 96)
    with OrtEngine(model, np.zeros((1, 3, 64, 96), np.float32)) as engine:
        assert engine.run(MaskMaker(tiny.contract.masks, axes, 0).make(0, 2)).shape == (2, 3, 64, 96)
    with pytest.raises(UsageError, match=r"is fixed to 64x96 and this image has 96x64 after padding\. Export it for a"):
        OrtEngine(model, np.zeros((1, 3, 96, 64), np.float32))


def refused_by(name: str, path: Path, contract: Contract) -> str:
    # The file has changed after it was loaded, so that the check of `load_model` no longer helps.
    model = Model(path, contract)
    try:
        engine = get_engine(name)(model, np.zeros((1, 3, 64, 64), np.float32))
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    with pytest.raises(FileFormatError) as caught:
        engine.prepare()
    assert caught.value.exit_code == 6
    return str(caught.value)


def remove_weights(proto: onnx.ModelProto) -> None:
    del proto.graph.initializer[:]


def unknown_operator(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        if node.op_type == "Conv":
            node.op_type = "Convulsion"


def short_weights(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        if tensor.raw_data:
            tensor.raw_data = tensor.raw_data[:-1]


@pytest.mark.parametrize("name", [name for name in ENGINES if name not in NEEDS_GPU])
@pytest.mark.parametrize("change", [remove_weights, unknown_operator, short_weights])
def test_a_graph_that_no_engine_loads(
    changed: Callable[[Change], Path], tiny: Fitted, name: str, change: Change
) -> None:
    with pytest.raises(FileFormatError):
        load_model(changed(change))
    message = refused_by(name, changed(change), tiny.contract)
    assert "changed.onnx: " in message
    # MNN converts the graph itself, and another engine may support an operator that MNN lacks.
    assert message.endswith("Use --engine ort." if name == "mnn" else "self2self export --force")
    assert "\n" not in message


def other_channels(proto: onnx.ModelProto) -> None:
    """Change the input channels of the first convolution, which fails only in a run."""
    first = next(node for node in proto.graph.node if node.op_type == "Conv")
    for tensor in proto.graph.initializer:
        if tensor.name == first.input[1]:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(array[:, :-1].copy(), tensor.name))


def test_a_graph_that_loads_but_does_not_run(
    changed: Callable[[Change], Path], tiny: Fitted, capfd: pytest.CaptureFixture[str]
) -> None:
    from self2self.runtime.ensemble.denoise import denoise_pixels

    model = Model(changed(other_channels), tiny.contract)
    with pytest.raises(FileFormatError, match=r"changed\.onnx: ONNX Runtime cannot (load|run) it"):
        denoise_pixels(model, np.zeros((3, 64, 64), np.float32), EnsembleOptions(engine="ort", passes=1))
    capfd.readouterr()


class Session:
    """Stands in for a session of ONNX Runtime."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, names: object, inputs: object) -> None:
        raise self.error


class RuntimeException(Exception):  # noqa: N818 - ONNX Runtime's name
    """Has the name of ONNX Runtime's own exception."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeException("Failed to allocate memory for requested buffer of size 9"), MemoryError),
        (RuntimeException("std::bad_alloc"), MemoryError),
        (MemoryError(), MemoryError),
        (RuntimeException("Non-zero status code\nsecond line"), FileFormatError),
        (TypeError("a bug"), TypeError),
    ],
)
def test_what_a_failing_session_becomes(tiny_model: Model, error: Exception, expected: type[Exception]) -> None:
    engine = OrtEngine(tiny_model, np.zeros((1, 3, 64, 64), np.float32))
    engine._session = Session(error)
    with pytest.raises(expected) as caught:
        engine.run({})
    assert "second line" not in str(caught.value)


def test_no_memory_for_the_session(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeException("bad allocation")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    engine = OrtEngine(tiny_model, np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(ResourceError, match="out of memory while loading"):
        engine.prepare()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite(tiny: Fitted, tmp_path: Path, precision: str, value: float) -> None:
    import torch

    network = copy.deepcopy(tiny.network)
    with torch.no_grad():
        network.head.bias[0] = value
    path = tmp_path / "model.onnx"
    to_onnx(network, replace(tiny.contract, precision=precision), path)
    with pytest.raises(FileFormatError, match=r"weights that are not finite numbers \(head\.bias\)") as caught:
        load_model(path)
    assert caught.value.exit_code == 6


def test_the_torch_engine_does_without_names_and_zero_biases(changed: Callable[[Change], Path], tiny: Fitted) -> None:
    """An optimiser may rename weights, merge equal ones, and leave out a bias of zeros."""
    import torch

    def optimise(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            for node in proto.graph.node:
                node.input[:] = [f"w_{name}" if name == tensor.name else name for name in node.input]
            tensor.name = f"w_{tensor.name}"
        del next(node for node in proto.graph.node if node.op_type == "Conv").input[2]

    network = copy.deepcopy(tiny.network)
    assert network.stem.conv.bias is not None
    with torch.no_grad():
        network.stem.conv.bias.zero_()
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    masks = MaskMaker(tiny.contract.masks, {"H": 64, "W": 64}, 0).make(0, 2)
    with get_engine("torch")(Model(changed(optimise), tiny.contract), image) as engine:
        got = engine.run(masks)
    with torch.inference_mode():
        inputs = [torch.from_numpy(array) for array in (image, *masks.values())]
        np.testing.assert_allclose(got, network(*inputs).numpy(), rtol=0, atol=1e-5)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(FileFormatError, match=r"large\.onnx: has 3221 MB; a model has at most 67"):
        load_model(path)


def test_escape_sequences_of_a_file_do_not_reach_the_terminal(changed: Callable[[Change], Path]) -> None:
    def name_it(proto: onnx.ModelProto) -> None:
        proto.graph.input[2].name = "\x1b[2Jmask" + 10_000 * "!"

    with pytest.raises(FileFormatError, match=r"\?\[2Jmask") as caught:
        load_model(changed(name_it))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
