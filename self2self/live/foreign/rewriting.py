"""Writes the new graph, in which draws are inputs, and compares it with the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.errors import FileFormatError, VerificationError
from self2self.live.contract import LiveContract, LiveMask
from self2self.live.draws import AnyArray, axes_of
from self2self.live.foreign.graph import attribute, drop_unread, opset_of, replace_all, types_of
from self2self.live.foreign.sites import Site
from self2self.live.model import LiveModel
from self2self.live.probes import difference
from self2self.runtime.engines.onnxruntime.cpu import load_graph

if TYPE_CHECKING:
    import onnx

    from self2self.runtime.engines.graphs import Runner

_TRAINING_OPSET = 12
"""From this opset on, Dropout has an input that switches it on."""
_TOLERANCE = 1e-4
"""Largest difference of the new graph from the original with equal draws, relative to the largest value."""
_NEARLY_ONE = 1 - 2.0**-20


def rewritten(
    proto: onnx.ModelProto, sites: Sequence[Site], contract: LiveContract, orders: Sequence[Sequence[int]]
) -> onnx.ModelProto:
    """The graph with the draws as inputs."""
    import onnx
    from onnx import helper

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph, types = model.graph, types_of(proto)
    drawn = {s.node.output[0]: (s, m, o) for s, m, o in zip(sites, contract.masks, orders, strict=True)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in drawn:
            nodes += _computed_from_input(graph, types, *drawn[node.output[0]])
        else:
            nodes.append(node)
    replace_all(graph.node, nodes)
    kinds = {
        mask.name: onnx.TensorProto.BOOL if mask.draw == "mask" else onnx.TensorProto.FLOAT for mask in contract.masks
    }
    graph.input.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items())
    del graph.value_info[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    del model.functions[:]
    drop_unread(graph)
    dims = {item.name: item.dims for item in contract.inputs} | {mask.name: mask.dims for mask in contract.masks}
    for value in graph.input:
        value.type.tensor_type.ClearField("shape")
        value.type.tensor_type.shape.SetInParent()
        for size in dims[value.name]:
            dim = value.type.tensor_type.shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            else:
                dim.dim_param = size
    for node in graph.node:
        del node.metadata_props[:]
    # The cut needs to know types; shapes at the example's sizes would be wrong at others.
    graph.value_info.extend(
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in types_of(model).items()
        if kind and name not in {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    )
    return model


def _computed_from_input(
    graph: onnx.GraphProto, types: Mapping[str, int], site: Site, mask: LiveMask, order: Sequence[int]
) -> list[onnx.NodeProto]:
    """What a node that draws computes, from the input `mask`."""
    from onnx import TensorProto, helper, numpy_helper

    made: list[onnx.NodeProto] = []

    def emit(operator: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        name = result or f"{mask.name}_{len(made)}"
        made.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def cast(value: str, to: int, result: str = "") -> str:
        return emit("Cast", value, result=result, to=to)

    def number(value: float, kind: int) -> str:
        name = f"{mask.name}_number_{len(graph.initializer)}"
        array = np.array(value, helper.tensor_dtype_to_np_dtype(kind))
        graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    node, drawn = site.node, mask.name
    if list(order) != sorted(order):
        drawn = emit("Transpose", drawn, perm=[order.index(axis) for axis in range(len(order))])
    output = node.output[0]
    kind = attribute(node, "dtype", 0) or types.get(output, 0) or types.get(site.like, 0) or TensorProto.FLOAT
    if node.op_type == "Bernoulli" and site.draw != "mask":
        drawn = emit("Less", drawn, cast(site.like, TensorProto.FLOAT))
    if node.op_type != "Dropout":
        cast(drawn, kind, output)
        return made
    rate = ""
    if site.draw != "mask":
        rate = (
            cast(site.ratio, TensorProto.FLOAT) if site.ratio else number(1 - float(site.keep or 0), TensorProto.FLOAT)
        )
        drawn = emit("Not", emit("Less", drawn, rate))
    if site.ratio:
        share = emit("Sub", number(1, TensorProto.FLOAT), rate)
        scaled = emit("Div", cast(drawn, kind), cast(share, kind))
    else:
        scaled = emit("Mul", cast(drawn, kind), number(1 / float(site.keep or 1), kind))
    emit("Mul", node.input[0], scaled, result=output)
    if len(node.output) > 1 and node.output[1]:
        cast(drawn, types.get(node.output[1], 0) or TensorProto.BOOL, node.output[1])
    return made


def difference_from(
    proto: onnx.ModelProto,
    path: Path,
    sites: Sequence[Site],
    live: LiveModel,
    orders: Sequence[Sequence[int]],
    examples: Mapping[str, AnyArray],
) -> float | None:
    """Let ONNX Runtime draw for the original graph, and compare the new one with what was drawn.

    Raises:
        VerificationError: the results differ.
    """
    recording = _recording(proto, path, sites)
    if recording is None:
        return None
    outputs = len(proto.graph.output)
    axes = axes_of(live.contract.axes, examples)
    try:
        found = recording(examples)
    except (ValueError, MemoryError):
        # ONNX Runtime has no kernel of some random operators in new opsets.
        return None
    draws = {}
    for site, mask, order, values in zip(sites, live.contract.masks, orders, found[outputs:], strict=True):
        values = values.transpose(order)
        if values.shape != mask.shape(axes):
            raise VerificationError(
                f"{path}: the draw {site.path} has shape {list(values.shape)}; expected {list(mask.shape(axes))}."
            )
        if site.draw == "mask":
            draws[mask.name] = values.astype(bool)
        elif site.node.op_type == "Dropout":
            draws[mask.name] = np.where(values.astype(bool), _NEARLY_ONE, 1 - _NEARLY_ONE).astype(np.float32)
        elif site.node.op_type == "Bernoulli":
            draws[mask.name] = np.where(values != 0, 1 - _NEARLY_ONE, _NEARLY_ONE).astype(np.float32)
        else:
            draws[mask.name] = values.astype(np.float32)
    results = live.one_pass(examples, live.once(examples), draws)
    largest = max(map(difference, results.values(), found[:outputs]))
    half = any(values.dtype == np.float16 for values in found[:outputs])
    if not largest <= (100 * _TOLERANCE if half else _TOLERANCE):
        raise VerificationError(
            f"{path}: with equal draws the new graph differs from the original by {largest:.1e} of its output; nothing "
            "was written. Please report the file."
        )
    return largest


def _recording(proto: onnx.ModelProto, path: Path, sites: Sequence[Site]) -> Runner | None:
    """Runs the original graph, with the draws of `sites` and no others; these are further outputs."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    live = {site.node.output[0] for site in sites}
    graph.initializer.append(numpy_helper.from_array(np.array(True), "_training"))
    for node in graph.node:
        if node.op_type != "Dropout":
            continue
        if opset_of(proto) < _TRAINING_OPSET:
            return None
        replace_all(node.input, [*[*node.input, ""][:2], "_training"])
        if len(node.output) < 2 or not node.output[1]:
            replace_all(node.output, [node.output[0], f"{node.output[0]}_mask"])
    drawn = [node.output[-1] for node in graph.node if node.output[0] in live]
    named = {value.name for value in graph.output}
    for index, name in enumerate(drawn):
        if name in named:
            graph.node.append(helper.make_node("Identity", [name], [f"_drawn_{index}"]))
            drawn[index] = f"_drawn_{index}"
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in drawn)
    drop_unread(graph)
    try:
        return load_graph(model, path)
    except (FileFormatError, MemoryError):
        return None
