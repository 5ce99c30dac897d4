"""Rewrites an exported ONNX graph for MNN's converter: it computes the same function with less work in a pass.

Masks become inputs of bytes, which take a quarter of the memory of float32. Weights that were rounded to half precision
become float32 again, because MNN computes in float32 on a CPU. The factor 1/(1-p) of a mask moves into the weights of
the convolution that follows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

IR_VERSION = 8
"""Version of the file format that the converter gets; every converter can read it."""


def for_mnn(graph: onnx.GraphProto, opsets: list[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
    """A model that computes the same as `graph`, from uint8 masks; `graph` is not changed."""
    import onnx
    from onnx import helper

    rewritten = onnx.GraphProto()
    rewritten.CopyFrom(graph)
    _widen(rewritten)
    fold_scales(rewritten)
    return helper.make_model(rewritten, opset_imports=opsets, ir_version=IR_VERSION)


def _widen(graph: onnx.GraphProto) -> None:
    """Change masks to uint8 and all floats to float32, and remove casts between floats, in place."""
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
    # A cast from or to another type rounds, or makes a float of an integer, and stays.
    not_floats = set(masks)
    for node in list(graph.node):
        if node.op_type != "Cast":
            continue
        to = next(entry for entry in node.attribute if entry.name == "to")
        if to.i not in floats:
            not_floats.add(node.output[0])
        elif node.input[0] in not_floats:
            to.i = TensorProto.FLOAT
        elif node.output[0] in outputs:
            node.op_type = "Identity"
            del node.attribute[:]
        else:
            _bypass(graph, node, node.input[0])


def fold_scales(graph: onnx.GraphProto) -> None:
    """Move each scalar factor into the weights of a convolution, where the factor reaches only that convolution."""
    from onnx import numpy_helper

    constants = {entry.name: entry for entry in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    uses = Counter(name for node in graph.node for name in node.input) + Counter(v.name for v in graph.output)

    def only_reader(name: str) -> onnx.NodeProto | None:
        """The node that reads the value `name`, if nothing else does."""
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
    """Whether `node` is a reflecting pad: the values that it adds have the factor, too."""
    return node.op_type == "Pad" and any(entry.name == "mode" and entry.s == b"reflect" for entry in node.attribute)


def _bypass(graph: onnx.GraphProto, node: onnx.NodeProto, kept: str) -> None:
    """Remove `node`; the nodes that read its output read `kept` instead."""
    name = node.output[0]
    for reader in graph.node:
        for index, read in enumerate(reader.input):
            if read == name:
                reader.input[index] = kept
    graph.node.remove(node)
