"""The exported graph: interface, operators, weights, metadata, sizes, and errors."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from self2self.errors import OutputError, UsageError
from self2self.export.to_onnx import build_model, to_onnx
from self2self.model.contract import Contract
from self2self.model.graph import IR_VERSION, OPSET_VERSION, WEIGHTS_KEY
from self2self.model.masks import MaskMaker

BOOL, FLOAT = onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
ROOT = Path(__file__).parents[2]


def axes_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def run_both(fitted, path: Path, height: int, width: int, passes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).random((1, fitted.contract.channels, height, width), np.float32)
    masks = MaskMaker(fitted.contract.masks, {"H": height, "W": width}, seed).make(0, passes)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    got = session.run(["prediction"], {"image": image, **masks})[0]
    with torch.no_grad():
        expected = fitted.network(torch.from_numpy(image), *map(torch.from_numpy, masks.values())).numpy()
    return got, expected


@pytest.fixture(scope="module")
def model(tiny_onnx: Path) -> onnx.ModelProto:
    return onnx.load(tiny_onnx)


def test_inputs_and_output_are_those_of_the_contract(model, tiny) -> None:
    assert [value.name for value in model.graph.input] == tiny.contract.input_names()
    assert [value.name for value in model.graph.output] == ["prediction"]
    kinds = [value.type.tensor_type.elem_type for value in model.graph.input]
    assert kinds == [FLOAT] + [BOOL] * 11
    assert model.graph.output[0].type.tensor_type.elem_type == FLOAT


def test_axes_have_readable_names(model, tiny) -> None:
    image, *masks = map(axes_of, model.graph.input)
    assert image == [1, 3, "H", "W"]
    assert masks == [["N", *spec.dims] for spec in tiny.contract.masks]
    assert masks[1] == ["N", 8, "H/16", "W/16"]
    assert axes_of(model.graph.output[0]) == ["N", 3, "H", "W"]


def test_the_graph_has_no_unnecessary_nodes(model) -> None:
    # The masks need a cast each, ten of them a scale and a product, and the input mask the product with the image.
    # The other seven products are the gates. No node is random or only moves data.
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 18, "Pad": 18, "LeakyRelu": 17, "Split": 7, "Sigmoid": 7, "MaxPool": 5, "Resize": 5, "Concat": 6,
        "Cast": 11, "Mul": 28,
    }  # fmt: skip
    assert not model.functions


def test_upsampling_is_a_resize_by_a_constant_that_repeats_pixels(model) -> None:
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Resize":
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert attributes["mode"] == b"nearest"
            assert attributes["coordinate_transformation_mode"] == b"asymmetric"
            assert attributes["nearest_mode"] == b"floor"
            assert constants[node.input[2]].tolist() == [1, 1, 2, 2]
            assert len(node.input) == 3


def test_weights_keep_the_names_of_the_network(model, tiny) -> None:
    stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    for name, weight in tiny.network.state_dict().items():
        np.testing.assert_array_equal(stored[name], weight.numpy())


def test_versions_are_pinned(model) -> None:
    assert (IR_VERSION, OPSET_VERSION) == (8, 18)
    assert model.ir_version == IR_VERSION
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET_VERSION)]


def test_the_file_describes_itself(model, tiny) -> None:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert Contract.from_metadata(metadata, "tiny.onnx") == tiny.contract
    assert metadata.keys() == {*tiny.contract.to_metadata(), WEIGHTS_KEY}


def test_one_file_without_external_data(tiny_onnx: Path, model) -> None:
    assert [path.name for path in tiny_onnx.parent.iterdir()] == ["tiny.onnx"]
    assert not any(entry.external_data for entry in model.graph.initializer)


def test_the_file_has_no_data_about_the_machine(tiny_onnx: Path, model) -> None:
    data = tiny_onnx.read_bytes()
    assert str(ROOT).encode() not in data
    assert str(Path.home()).encode() + b"/" not in data
    assert b"stack_trace" not in data
    assert not model.graph.value_info


@pytest.mark.parametrize(("height", "width", "passes"), [(64, 64, 1), (64, 96, 2), (96, 64, 1), (128, 160, 3)])
def test_any_size_and_batch_run_in_onnx_runtime(tiny, tiny_onnx: Path, height: int, width: int, passes: int) -> None:
    got, expected = run_both(tiny, tiny_onnx, height, width, passes)
    assert got.shape == (passes, 3, height, width)
    assert expected.std() > 1e-3
    assert np.abs(got - expected).max() <= 1e-4


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_rgba_run_at_a_fixed_size(make_fitted, tmp_path: Path, channels: int) -> None:
    fitted = make_fitted(channels, decoder_widths=(5, 4, 3, 2, 3))
    path = tmp_path / "model.onnx"
    to_onnx(fitted.network, fitted.contract, path, size=(64, 128))
    image, input_mask, first, *_ = (axes_of(value) for value in onnx.load(path).graph.input)
    assert image == [1, channels, 64, 128]
    assert input_mask == ["N", channels, 64, 128]
    assert first == ["N", 8, 4, 8]
    got, expected = run_both(fitted, path, 64, 128, 3)
    assert np.abs(got - expected).max() <= 1e-4
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run_both(fitted, path, 64, 64, 1)


def test_weights_that_are_equal_are_all_stored(make_fitted) -> None:
    # All biases of a network that is not fitted yet are zero and thus equal.
    network, contract = (fitted := make_fitted()).network, fitted.contract
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    names = {entry.name for entry in build_model(network, contract).graph.initializer}
    assert network.state_dict().keys() <= names


@pytest.mark.slow
def test_paper_network_runs_in_onnx_runtime(make_fitted, tmp_path: Path) -> None:
    fitted = make_fitted(3, 48, (96,) * 5)
    path = tmp_path / "paper.onnx"
    to_onnx(fitted.network, fitted.contract, path)
    assert path.stat().st_size == pytest.approx(4 * 1_253_571, rel=0.01)
    got, expected = run_both(fitted, path, 64, 96, 1)
    assert np.abs(got - expected).max() <= 1e-4


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((100, 64), "size 100x64 cannot be fixed in the model; expected multiples of 32 that are at least 64"),
        ((100, 64), "for example 128x64."),
        ((32, 96), "for example 64x96."),
        ((0, 64), "for example 64x64."),
    ],
)  # fmt: skip
def test_a_size_that_the_network_cannot_take_is_refused(tiny, tmp_path: Path, size: tuple[int, int], text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        to_onnx(tiny.network, tiny.contract, tmp_path / "model.onnx", size=size)
    assert not list(tmp_path.iterdir())


def test_a_contract_of_another_network_is_a_bug(tiny, make_fitted) -> None:
    for other in (make_fitted(1), make_fitted(drop_rate=0.5), make_fitted(encoder_width=5)):
        with pytest.raises(ValueError, match="contract"):
            build_model(tiny.network, other.contract)


def test_a_missing_folder_is_an_error_and_nothing_is_written(tiny, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("self2self.export.to_onnx.build_model", lambda *_: onnx.ModelProto())
    with pytest.raises(OutputError, match="cannot be written"):
        to_onnx(tiny.network, tiny.contract, tmp_path / "missing" / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_export_is_silent_and_the_same_in_another_process(tiny_onnx: Path, tmp_path: Path) -> None:
    # An engine cache has the hash of the file as key, so the state of the network must not change the file.
    script = f"""
        import logging, sys
        sys.path.insert(0, "tests")
        import torch
        from conftest import build_fitted
        from self2self.export import export_model

        fitted = build_fitted()
        network = fitted.network.to(memory_format=torch.channels_last).train()
        network.head.weight.grad = torch.ones_like(network.head.weight)
        export_model(network, fitted.contract, {str(tmp_path / "model.onnx")!r})
        assert network.training and network.head.weight.grad is not None and network.head.weight.requires_grad
        assert network.head.weight.is_contiguous(memory_format=torch.channels_last)
        assert logging.getLogger("torch.onnx").getEffectiveLevel() <= logging.WARNING
    """
    # Warnings are on, because a user may turn them on.
    command = [sys.executable, "-W", "default", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "model.onnx").read_bytes() == tiny_onnx.read_bytes()
