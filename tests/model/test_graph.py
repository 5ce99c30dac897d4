"""Compare the graph that `network_graph` writes down with the graph that `torch.onnx` traces from the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from self2self.export.to_onnx import build_model
from tests.conftest import Fitted
from tests.export.traced import traced


def attributes_of(node: onnx.NodeProto, opset: int) -> dict[str, Any]:
    """Return all attributes of a node, defaults included, except those whose value is neutral."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    values = {
        name: onnx.helper.get_attribute_value(entry.default_value)
        for name, entry in schema.attributes.items()
        if entry.default_value.name
    }
    values |= {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    # It repeats the shape of the weights, and only some versions of onnxscript leave it out.
    values.pop("kernel_shape", None)
    # A missing attribute of these has the neutral value.
    neutral = {"pads": 0, "dilations": 1, "strides": 1, "group": 1}
    values = {name: v for name, v in values.items() if name not in neutral or set(np.ravel(v)) != {neutral[name]}}
    return {name: np.float32(v) if isinstance(v, float) else v for name, v in values.items()}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_graph_is_the_one_that_torch_traces(
    make_fitted: Callable[..., Fitted], channels: int, precision: str
) -> None:
    fitted = make_fitted(channels, decoder_widths=(6, 5, 4, 3, 2))
    contract = replace(fitted.contract, precision=precision)
    ours, theirs = build_model(fitted.network, contract), traced(fitted.network, contract)
    opset = 18
    assert [node.op_type for node in ours.graph.node] == [node.op_type for node in theirs.graph.node]
    constants = [
        {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer} for model in (ours, theirs)
    ]
    same = {value.name: value.name for value in theirs.graph.input} | {"": ""}
    assert [value.name for value in ours.graph.input] == [value.name for value in theirs.graph.input]
    weights = {}
    for mine, traced_node in zip(ours.graph.node, theirs.graph.node, strict=True):
        assert attributes_of(mine, opset) == attributes_of(traced_node, opset), mine.name
        assert len(mine.input) == len(traced_node.input), mine.name
        commutes = mine.op_type == "Mul"
        pairs = [(a, b) for a, b in zip(mine.input, traced_node.input, strict=True) if b not in constants[1]]
        if commutes:
            assert {same[b] for _, b in pairs} == {a for a, _ in pairs}, mine.name
        else:
            assert all(same[b] == a for a, b in pairs), mine.name
        for a, b in zip(mine.input, traced_node.input, strict=True):
            if b in constants[1] and mine.op_type == "Conv":
                weights[a] = b.removeprefix("network.")
                assert constants[0][a].shape == constants[1][b].shape
            elif b in constants[1]:
                np.testing.assert_array_equal(constants[0][a].astype(np.float32), constants[1][b].astype(np.float32))
        same |= dict(zip(traced_node.output, mine.output, strict=True))
    # Each convolution has to use the same weights of the network in both graphs.
    assert all(a == b for a, b in weights.items())
    assert weights.keys() == fitted.network.state_dict().keys()


def test_the_same_bytes_every_time(make_fitted: Callable[..., Fitted]) -> None:
    fitted = make_fitted(3)
    first, second = (build_model(fitted.network, fitted.contract).SerializeToString(deterministic=True) for _ in "ab")
    assert first == second


def test_every_value_has_a_name_of_its_own(make_fitted: Callable[..., Fitted]) -> None:
    fitted = make_fitted(3)
    graph = build_model(fitted.network, fitted.contract).graph
    made = [name for node in graph.node for name in node.output]
    assert len({*made, *(entry.name for entry in graph.initializer)}) == len(made) + len(graph.initializer)
    assert len({node.name for node in graph.node}) == len(graph.node)
