"""Reads an ONNX file of another program, and brings its graph into a form with fewer cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from self2self.errors import FileFormatError, UsageError, first_line, shown
from self2self.live.foreign.graph import attribute, opset_of, path_of, set_attribute, types_of
from self2self.live.foreign.sites import NOISE
from self2self.live.model import LARGEST_FILE_BYTES, all_nodes, foreign_parts
from self2self.runtime.model import read_proto

if TYPE_CHECKING:
    import onnx

_OLDEST_OPSET = 9
"""Older files are converted: ONNX Runtime has no kernels for some of their operators, and they lack ConstantOfShape."""
_FIRST_WITHOUT_TEST = 7
"""Before this opset, Dropout drops unless an attribute says that this is a test."""
_CONVERTED_OPSET = 17


def read(path: Path) -> onnx.ModelProto:
    """The model, in operators of ONNX alone, and in no other file."""
    import onnx
    from onnx import inliner

    proto = read_proto(path, LARGEST_FILE_BYTES, "Give another file.", "the program that trained the network")
    if problem := foreign_parts(proto, functions=True):
        raise FileFormatError(
            f"{path}: has {problem}, which cannot be read here. Export it in operators of ONNX alone."
        )
    if proto.functions:
        try:
            proto = inliner.inline_local_functions(proto)
        except Exception as error:
            # The inliner raises errors of C++.
            raise FileFormatError(f"{path}: its functions are damaged ({shown(first_line(error))}).") from error
    if problem := foreign_parts(proto):
        raise FileFormatError(
            f"{path}: has {problem}, which cannot be read here. Export it in operators of ONNX alone."
        )
    for value in proto.graph.output:
        if not value.type.HasField("tensor_type"):
            raise FileFormatError(f"{path}: output {value.name} is no tensor. Export the network without it.")
    version = opset_of(proto)
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", version))
    for node in all_nodes(proto.graph.node):
        node.domain = ""
    constants = {tensor.name for tensor in proto.graph.initializer}
    # Old files list their weights among the inputs.
    inputs = [value for value in proto.graph.input if value.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


def prepare(proto: onnx.ModelProto, path: Path) -> set[str]:
    """Bring the graph into a form with fewer cases, in place; return outputs of Dropouts that were on before opset 7.

    Old opsets are converted. Normalisation that updates its statistics uses them instead. Noise gets its standard
    distribution, and is scaled after it.
    """
    import onnx
    from onnx import helper, numpy_helper, version_converter

    was_on = set()
    if opset_of(proto) < _OLDEST_OPSET:
        for node in proto.graph.node:
            if node.op_type == "Dropout" and opset_of(proto) < _FIRST_WITHOUT_TEST:
                if not attribute(node, "is_test", 0):
                    was_on.add(node.output[0])
                set_attribute(node, "is_test", 1)
        try:
            proto.CopyFrom(version_converter.convert_version(proto, _CONVERTED_OPSET))
        except Exception as error:
            raise FileFormatError(
                f"{path}: opset {opset_of(proto)} cannot be converted ({shown(first_line(error))}). Export it with "
                f"opset {_OLDEST_OPSET} or newer."
            ) from error
    graph = proto.graph
    used = {name for node in all_nodes(graph.node) for name in node.input} | {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "BatchNormalization" and (attribute(node, "training_mode", 0) or len(node.output) > 1):
            if used & set(node.output[1:]):
                raise UsageError(
                    f"{path}: {path_of(node)} normalises by the batch and hands on its statistics. Export the network "
                    "in evaluation mode, with the dropout alone in training mode."
                )
            set_attribute(node, "training_mode", None)
            del node.output[1:]
        if node.op_type in NOISE:
            names = ("low", "high") if NOISE[node.op_type] == "uniform" else ("mean", "scale")
            first, second = (attribute(node, name, default) for name, default in zip(names, (0.0, 1.0), strict=True))
            scale = second - first if names[0] == "low" else second
            for name in names:
                set_attribute(node, name, None)
            set_attribute(node, "seed", None)
            if (first, scale) != (0, 1):
                output, kind = node.output[0], attribute(node, "dtype", 0)
                kind = kind or (types_of(proto).get(node.input[0], 0) if node.input else 0)
                node.output[0] = f"{output}_drawn"
                for operator, value, before, after in (
                    ("Mul", scale, node.output[0], f"{output}_scaled"),
                    ("Add", first, f"{output}_scaled", output),
                ):
                    array = np.array(value, helper.tensor_dtype_to_np_dtype(kind or onnx.TensorProto.FLOAT))
                    graph.initializer.append(numpy_helper.from_array(array, f"{after}_{operator}"))
                    nodes.append(helper.make_node(operator, [before, f"{after}_{operator}"], [after]))
    del graph.node[:]
    graph.node.extend(nodes)
    return was_on
