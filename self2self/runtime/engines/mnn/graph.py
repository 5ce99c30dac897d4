"""An exported ONNX graph in the form that suits MNN's converter: the same function, with less to do in a pass.

Masks come in as bytes, so that a pass holds a quarter of what it would as float32; whatever was
rounded to half precision is float32 again, in which MNN computes on a CPU; and the factor 1/(1-p) on
a mask moves into the weights of the convolution behind it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

IR_VERSION = 8
"""Of files that are handed to the converter; old enough for every one of them."""


def for_mnn(graph: onnx.GraphProto, opsets: list[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
    """A model that computes what `graph` computes, from uint8 masks; `graph` is left as it is."""
    import onnx
    from onnx import helper

    rewritten = onnx.GraphProto()
    rewritten.CopyFrom(graph)
    _widen(rewritten)
    fold_scales(rewritten)
    return helper.make_model(rewritten, opset_imports=opsets, ir_version=IR_VERSION)


def _widen(graph: onnx.GraphProto) -> None:
    """Masks as uint8, other floats as float32, and no casts between floats."""
    from onnx import TensorProto, numpy_helper

    masks = set()
    for value in graph.input:
        kind = value.type.tensor_type
        if kind.elem_type == TensorProto.BOOL:
            masks.add(value.name)
            kind.elem_type = TensorProto.UINT8
        else:
            kind.elem_type = TensorProto.FLOAT
    for value in graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    for entry in graph.initializer:
        if entry.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry).astype(np.float32), entry.name))
    outputs = {value.name for value in graph.output}
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    # A cast from or to anything else rounds, or makes a float, and stays.
    others = set(masks)
    for node in list(graph.node):
        if node.op_type != "Cast":
            continue
        to = next(entry for entry in node.attribute if entry.name == "to")
        if to.i not in floats:
            others.add(node.output[0])
        elif node.input[0] in others:
            to.i = TensorProto.FLOAT
        elif node.output[0] in outputs:
            node.op_type = "Identity"
            del node.attribute[:]
        else:
            _bypass(graph, node, node.input[0])


def fold_scales(graph: onnx.GraphProto) -> None:
    """Move each factor that reaches a convolution, and nothing else, into its weights."""
    from onnx import numpy_helper

    constants = {entry.name: entry for entry in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    uses = Counter(name for node in graph.node for name in node.input) + Counter(v.name for v in graph.output)

    def only_reader(name: str) -> onnx.NodeProto | None:
        return readers[name][0] if uses[name] == len(readers[name]) == 1 else None

    for node in list(graph.node):
        if node.op_type != "Mul":
            continue
        factor = next((constants[n] for n in node.input if n in constants and not any(constants[n].dims)), None)
        if factor is None:
            continue
        name = node.output[0]
        reader = only_reader(name)
        while reader is not None and (reader.op_type == "Mul" or _reflects(reader)):
            name = reader.output[0]
            reader = only_reader(name)
        if reader is None or reader.op_type != "Conv" or reader.input[0] != name:
            continue
        weight = constants.get(reader.input[1])
        if weight is None or uses[weight.name] != 1:
            continue
        scaled = numpy_helper.to_array(weight) * numpy_helper.to_array(factor).astype(np.float32)
        weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))
        kept = next(n for n in node.input if n != factor.name)
        readers[kept] = [entry for entry in readers[kept] if entry is not node] + readers[node.output[0]]
        _bypass(graph, node, kept)


def _reflects(node: onnx.NodeProto) -> bool:
    """Whether `node` is a pad that adds what has the factor, too."""
    return node.op_type == "Pad" and any(entry.name == "mode" and entry.s == b"reflect" for entry in node.attribute)


def _bypass(graph: onnx.GraphProto, node: onnx.NodeProto, kept: str) -> None:
    """Remove `node`, and let what reads its output read `kept` instead."""
    name = node.output[0]
    for reader in graph.node:
        for index, read in enumerate(reader.input):
            if read == name:
                reader.input[index] = kept
    graph.node.remove(node)
