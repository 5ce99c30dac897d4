"""Reads and changes parts of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.live.draws import AnyArray
from self2self.live.model import STANDARD, all_nodes, subgraphs

if TYPE_CHECKING:
    import onnx


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of ONNX's own operators."""
    return next((entry.version for entry in proto.opset_import if entry.domain in STANDARD), 1)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute of a node."""
    from onnx import helper

    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute; None removes it."""
    from onnx import helper

    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def path_of(node: onnx.NodeProto) -> str:
    """Name of a node, or of its output where it has none."""
    return node.name or node.output[0]


def types_of(proto: onnx.ModelProto) -> dict[str, int]:
    """Element types of the values of the graph."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(proto).graph
    except Exception:
        # What is asked for and not found is refused later.
        graph = proto.graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def constant_of(graph: onnx.GraphProto, name: str) -> AnyArray | None:
    """The value of a constant; None for anything else."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        if tensor.name == name:
            return np.asarray(numpy_helper.to_array(tensor))
    for node in graph.node:
        if name not in node.output:
            continue
        if node.op_type in ("Identity", "Cast", "CastLike"):
            return constant_of(graph, node.input[0])
        if node.op_type == "Constant" and len(node.attribute) == 1:
            entry = node.attribute[0]
            value = numpy_helper.to_array(entry.t) if entry.name == "value" else attribute(node, entry.name, None)
            return None if entry.name in ("sparse_value", "value_string") else np.asarray(value)
    return None


def identifier(name: str) -> str:
    """A name of letters, digits and underscores that resembles `name`."""
    text = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name).strip("_")
    return text if text[:1].isalpha() else f"x{text}"


def replace_all(field_of_graph: Any, entries: Sequence[Any]) -> None:
    """Replace the entries of a list of a graph, some of which may be in it already."""
    copies = list(entries)
    del field_of_graph[:]
    field_of_graph.extend(copies)


def integers(name: str, values: Sequence[int]) -> onnx.TensorProto:
    """A constant of int64."""
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values, np.int64), name)


def leave_out_dropout(proto: onnx.ModelProto, kept: set[str]) -> None:
    """Switch off all Dropouts whose output is not in `kept`, in place."""
    types = types_of(proto)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        off = node.op_type == "Dropout" and node.output[0] not in kept
        nodes += without_dropout(node, types) if off else [node]
    replace_all(proto.graph.node, nodes)


def without_dropout(node: onnx.NodeProto, types: Mapping[str, int]) -> list[onnx.NodeProto]:
    """What a Dropout that is switched off computes."""
    from onnx import TensorProto, helper, numpy_helper

    made = [helper.make_node("Identity", [node.input[0]], [node.output[0]])]
    if len(node.output) > 1 and node.output[1]:
        size = f"{node.output[1]}_size"
        kind = types.get(node.output[1], TensorProto.BOOL) or TensorProto.BOOL
        one = numpy_helper.from_array(np.ones(1, helper.tensor_dtype_to_np_dtype(kind)))
        made.append(helper.make_node("Shape", [node.input[0]], [size]))
        made.append(helper.make_node("ConstantOfShape", [size], [node.output[1]], value=one))
    return made


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes, weights and inputs that no output depends on."""
    needed, nodes = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed.update(name for inner in all_nodes([node]) for name in inner.input if name)
            needed.update(value.name for inner in all_nodes([node]) for sub in subgraphs(inner) for value in sub.output)
    replace_all(graph.node, nodes[::-1])
    replace_all(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    replace_all(graph.input, [value for value in graph.input if value.name in needed])
