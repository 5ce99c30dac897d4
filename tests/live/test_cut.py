"""The cut graph computes what the whole one does, and what no draw reaches once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from self2self.live.cut import Cut, cut_graph
from tests.live.graphs import graph


def names(model: onnx.ModelProto | None) -> list[str]:
    assert model is not None
    return [node.op_type for node in model.graph.node]


def test_the_prefix_has_what_depends_on_data_alone() -> None:
    cut = cut_graph(graph(), ["mask"])
    assert names(cut.prefix) == ["Tanh"]
    assert names(cut.suffix) == ["Cast", "Div", "Mul", "MatMul"]
    assert cut.carried == ("features",)
    assert [value.name for value in cut.suffix.graph.input] == ["mask", "features"]
    assert [value.name for value in cut.suffix.graph.output] == ["output"]
    assert cut.prefix is not None
    assert not cut.prefix.graph.initializer


def test_a_mask_on_the_input_leaves_the_graph_whole() -> None:
    model = graph()
    del model.graph.node[0]
    model.graph.node[2].input[0] = "x"
    del model.graph.output[1]
    assert cut_graph(model, ["mask"]) == Cut(None, model, ())


def test_a_value_of_unknown_type_leaves_the_graph_whole() -> None:
    model = graph()
    del model.graph.output[1]
    assert cut_graph(model, ["mask"]).prefix is None
    model.graph.value_info.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    assert names(cut_graph(model, ["mask"]).prefix) == ["Tanh"]


@pytest.fixture
def branching() -> onnx.ModelProto:
    """A branch that reads a value from outside, and does not name it among its inputs."""
    branches = [
        helper.make_graph([helper.make_node(op, ["features", "kept"], [op])], op, [], [_float(op)])
        for op in ("Add", "Mul")
    ]
    nodes = [
        helper.make_node("Tanh", ["x"], ["features"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("If", ["choice"], ["output"], then_branch=branches[0], else_branch=branches[1]),
    ]
    inputs = [_float("x"), _bool("mask", 4), _bool("choice")]
    made = helper.make_graph(nodes, "branching", inputs, [_float("output")], value_info=[_float("features")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _float(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])


def _bool(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, list(shape))


def test_what_a_branch_reads_is_carried(branching: onnx.ModelProto) -> None:
    ort = pytest.importorskip("onnxruntime")
    cut = cut_graph(branching, ["mask"])
    assert cut.carried == ("features",)
    assert cut.prefix is not None

    def run(model: onnx.ModelProto, **values: np.ndarray) -> np.ndarray:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {value.name: values[value.name] for value in session.get_inputs()})[0]

    x, mask = np.arange(4, dtype=np.float32), np.array([True, False, True, True])
    for choice in (True, False):
        given = {"x": x, "mask": mask, "choice": np.array(choice)}
        features = run(cut.prefix, **given)
        np.testing.assert_array_equal(run(cut.suffix, features=features, **given), run(branching, **given))


def test_the_number_of_axes_may_have_to_be_known() -> None:
    model = graph()
    # As PyTorch's exporter does: a type without a shape, which would keep others from being inferred.
    model.graph.value_info.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, None))
    cut = cut_graph(model, ["mask"], ranks=True)
    assert cut.carried == ("features",)
    carried = cut.suffix.graph.input[1].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in carried] == [0, 4]
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[1].type.tensor_type.ClearField("shape")
    assert cut_graph(model, ["mask"], ranks=True).prefix is None


def test_sizes_are_computed_in_both_parts() -> None:
    """Engines that know the shapes of the data alone can then follow the sizes."""
    model = graph()
    shape = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Mul", ["size", "one"], ["sizes"]),
        helper.make_node("Expand", ["output", "sizes"], ["wide"]),
    ]
    model.graph.node.extend(shape)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.int64), "one"))
    model.graph.output[0].CopyFrom(_float("wide"))
    cut = cut_graph(model, ["mask"])
    assert cut.carried == ("features",)
    assert names(cut.suffix) == ["Cast", "Div", "Mul", "MatMul", "Shape", "Mul", "Expand"]
    assert [value.name for value in cut.suffix.graph.input] == ["x", "mask", "features"]
