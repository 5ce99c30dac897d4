"""Engines that run any graph refuse, in one line, what they cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from self2self.errors import EngineUnavailableError, FileFormatError, UsageError
from self2self.machine.nvidia import NoGpu, find_gpu
from self2self.runtime.engines.graphs import GRAPH_ENGINES, checked, graph_loader

pytest.importorskip("onnxruntime")

PATH = Path("net.onnx")


def model(node: onnx.NodeProto, shape: list[Any], kind: int = TensorProto.FLOAT, **weights: Any) -> onnx.ModelProto:
    """A graph of one node from `x` to `y`."""
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


RECURRENT = model(
    helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2), ["t", 1, 3], w=ones(1, 8, 3), r=ones(1, 8, 2)
)
VOLUME = model(helper.make_node("Conv", ["x", "w"], ["y"]), [1, 1, 4, 4, 4], w=ones(2, 1, 3, 3, 3))
POOLED = model(helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2, 2]), [1, 1, 4, 4, 4])
INTEGERS = model(helper.make_node("Add", ["x", "x"], ["y"]), ["n"], TensorProto.INT64)


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (RECURRENT, r"net\.onnx: the engine mnn takes no recurrent layers \(LSTM\)\. Use the engine ort\."),
        (VOLUME, r"takes no layers over volumes \(Conv in three dimensions\)"),
        (POOLED, r"takes no layers over volumes \(MaxPool in three dimensions\)"),
        (INTEGERS, r"takes no int64 values \(x\)"),
    ],
)
def test_mnn_refuses_what_it_computes_wrongly(proto: onnx.ModelProto, message: str) -> None:
    pytest.importorskip("MNN")
    with pytest.raises(FileFormatError, match=message):
        graph_loader("mnn")(proto, PATH)


@pytest.mark.parametrize("wrong", [lambda y: y + 0.1, lambda y: y[:1], lambda y: y.astype(np.float64)])
def test_the_first_results_are_compared(wrong: Any) -> None:
    proto = model(helper.make_node("Tanh", ["x"], ["y"]), ["n", 2])
    values = {"x": np.array([[0.5, -2], [1, 3]], np.float32)}
    right = checked(lambda given: [np.tanh(given["x"])], "mnn", proto, PATH)
    np.testing.assert_array_equal(right(values)[0], np.tanh(values["x"]))
    # Later results are not compared.
    assert right({"x": ones(3, 2)})[0].shape == (3, 2)
    with pytest.raises(FileFormatError, match=r"net\.onnx: the engine mnn computes y wrongly\. Use the engine ort\."):
        checked(lambda given: [wrong(np.tanh(given["x"]))], "mnn", proto, PATH)(values)


@pytest.mark.parametrize("engine", [name for name in GRAPH_ENGINES if name not in ("ort-cuda", "ort-trt")])
def test_a_graph_that_is_none_is_refused(engine: str) -> None:
    proto = model(helper.make_node("NoSuchOperator", ["x"], ["y"]), ["n"])
    try:
        with pytest.raises(FileFormatError, match=r"net\.onnx: ") as caught:
            graph_loader(engine)(proto, PATH)
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ["ort-cuda", "ort-trt"])
def test_engines_for_gpus_say_what_is_missing(engine: str) -> None:
    if not isinstance(find_gpu(), NoGpu):
        pytest.skip("there is a GPU")
    with pytest.raises(EngineUnavailableError, match=f"engine {engine}: .* Use --engine auto"):
        graph_loader(engine)(RECURRENT, PATH)


def test_other_engines_run_no_graphs() -> None:
    with pytest.raises(UsageError, match="engine is 'torch'; networks with live dropout run in ort, openvino, mnn"):
        graph_loader("torch")


@pytest.mark.parametrize("engine", ["ort", "openvino", "mnn"])
def test_inputs_have_their_names_where_an_engine_joins_equal_values(engine: str) -> None:
    proto = model(helper.make_node("Add", ["same", "x"], ["y"]), ["n", 2])
    proto.graph.node.insert(0, helper.make_node("Identity", ["x"], ["same"]))
    try:
        run = graph_loader(engine)(proto, PATH)
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(run({"x": ones(3, 2)})[0], 2 * ones(3, 2))
