"""Checks that a model file holds the network that its metadata promise, and nothing else.

A model file may come from anyone. The exporter writes one form of graph (`model.graph`), so the check builds that graph
from the contract and compares the file with it, node by node. No engine sees a file that differs: no operator, loop,
constant or reference to another file that the exporter did not write. See docs/reliability.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from self2self.errors import shown
from self2self.model.contract import IMAGE, MAXIMUM_SIDE, Contract, mask_specs
from self2self.model.graph import element_type, network_graph, versions
from self2self.model.layers import LayerSpec, network_layers, widths_of
from self2self.model.plain import weights_of
from self2self.model.plain_graph import plain_graph

if TYPE_CHECKING:
    import onnx

_MODEL_FIELDS = {
    "ir_version",
    "opset_import",
    "producer_name",
    "producer_version",
    "domain",
    "model_version",
    "doc_string",
    "graph",
    "metadata_props",
}
_GRAPH_FIELDS = {"node", "name", "initializer", "input", "output", "doc_string"}
_WEIGHT_FIELDS = {"dims", "data_type", "name", "raw_data"}
_CONSTANT_FIELDS = _WEIGHT_FIELDS | {"float_data", "int32_data"}
_LARGEST_CONSTANT = 8
"""Values of the largest constant of the graph, the pads of a convolution."""


def check_graph(model: onnx.ModelProto, contract: Contract) -> tuple[int, int] | None:
    """Compare `model` with the file that the exporter would write for `contract`, except for the values of weights.

    Sizes are compared before any value is decoded, so the check takes no more memory than the file.

    Returns:
        the only (height, width) that engines accept; None for any, as the core of a plain model does.

    Raises:
        ValueError, KeyError, IndexError, UsageError: they differ, or the contract contradicts itself; says where.
    """
    _check_fields(model, _MODEL_FIELDS)
    _check_fields(model.graph, _GRAPH_FIELDS)
    size_before = model.ByteSize()
    # An engine may know fields of later versions of the format, which were not compared.
    model.DiscardUnknownFields()
    if model.ByteSize() != size_before:
        raise ValueError("fields of an unknown version of the format")
    size = _check_values(model.graph, contract)
    layers = _layers_of(model.graph, contract)
    shapes = weights_of(layers, contract)
    _check_weights(model.graph, shapes, contract)
    kind = element_type(contract.precision)
    expected = plain_graph(contract, layers, kind, size) if contract.plain else network_graph(contract, layers, kind)
    _check_nodes(model.graph, expected)
    _check_constants(model.graph, expected, set(shapes))
    # What the numbers of the nodes mean depends on these versions.
    opset, ir_version = versions(contract.precision)
    if [(entry.domain, entry.version) for entry in model.opset_import] != [("", opset)]:
        raise ValueError(f"its operators are not those of opset {opset}")
    if model.ir_version != ir_version:
        raise ValueError(f"IR version {model.ir_version}; expected {ir_version}")
    return None if contract.plain else size


def infinite_weights(graph: onnx.GraphProto) -> list[str]:
    """Names of the floating-point initialisers of a checked graph that hold a NaN or an infinity."""
    return [entry.name for entry in graph.initializer if entry.raw_data and not _is_finite(entry)]


def _check_fields(message: onnx.ModelProto | onnx.GraphProto | onnx.TensorProto, allowed: set[str]) -> None:
    """Raise a ValueError if `message` has a field besides `allowed`, such as functions or data in other files."""
    others = sorted({descriptor.name for descriptor, _ in message.ListFields()} - allowed)
    if others:
        raise ValueError(f"{type(message).__name__} has {', '.join(others)}")


def _check_values(graph: onnx.GraphProto, contract: Contract) -> tuple[int, int] | None:
    """Compare names, types and shapes of inputs and output; arguments and result are those of `check_graph`."""
    from onnx import TensorProto

    names = [value.name for value in graph.input]
    if names != contract.input_names():
        raise ValueError(f"inputs {shown(*names) or 'none'}")
    if [value.name for value in graph.output] != [contract.output_name]:
        raise ValueError(f"outputs {shown(*(value.name for value in graph.output)) or 'none'}")
    found = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
    dims = {name: [dim.dim_value or None for dim in tensor.shape.dim] for name, tensor in found.items()}
    image = dims[IMAGE]
    if len(image) != 4:
        raise ValueError(f"{IMAGE} has {len(image)} axes")
    height, width = image[2:]
    axes = {axis: length for axis, length in (("H", height), ("W", width)) if length is not None}
    colour: tuple[int | str, ...] = (contract.channels, "H", "W")
    images = {IMAGE: colour, contract.output_name: colour}
    promised = images | {mask.name: mask.dims for mask in contract.mask_inputs}
    for name, expected in promised.items():
        element = TensorProto.FLOAT if name in images else TensorProto.BOOL
        if found[name].elem_type != element:
            raise ValueError(f"{name} is not {TensorProto.DataType.Name(element).lower()}")
        # H and W have lengths in a graph for one size, and only names in a graph for all sizes.
        resolved = [d if isinstance(d, int) else _length(d, axes) for d in expected]
        passes = 1 if name == IMAGE and not contract.plain else None
        if dims[name] != [passes, *resolved]:
            raise ValueError(f"{name} has shape {dims[name]}; expected {[passes, *resolved]}")
    if height is None and width is None:
        return None
    if height is None or width is None:
        raise ValueError(f"{IMAGE} has one fixed side")
    if any(not _is_side(length, contract) for length in (height, width)):
        raise ValueError(f"size {height}x{width}")
    return height, width


def _length(expression: str, axes: dict[str, int]) -> int | None:
    """The length of an axis expression such as ``"H/16"``; None if the graph leaves the axis free."""
    axis, _, divisor = expression.partition("/")
    return axes[axis] // int(divisor or 1) if axis in axes else None


def _is_side(length: int, contract: Contract) -> bool:
    if contract.plain:
        return 1 <= length <= MAXIMUM_SIDE
    return length % contract.size_multiple == 0 and contract.minimum_size <= length <= MAXIMUM_SIDE


def _layers_of(graph: onnx.GraphProto, contract: Contract) -> tuple[LayerSpec, ...]:
    """The layers of the network, whose widths are those of its weights and of the masks of `contract`."""
    encoder_width, decoder_widths = widths_of({entry.name: tuple(entry.dims) for entry in graph.initializer})
    if min(encoder_width, *decoder_widths) < 1:
        raise ValueError("weights without elements")
    masks = mask_specs(contract.channels, encoder_width, decoder_widths, 0.0, 0.0)
    if [(mask.name, mask.dims) for mask in masks] != [(mask.name, mask.dims) for mask in contract.masks]:
        raise ValueError("its masks are not those of the network")
    # One scale in the graph serves all of the decoder's masks.
    if len({mask.keep_count for mask in contract.masks[1:]}) > 1:
        raise ValueError("its masks keep different shares")
    return network_layers(contract.channels, encoder_width, decoder_widths)


def _check_weights(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]], contract: Contract) -> None:
    """Compare types, shapes and lengths in bytes of the weights with `shapes`, by their names."""
    tensors = {entry.name: entry for entry in graph.initializer}
    if len(tensors) != len(graph.initializer):
        raise ValueError("two initialisers of one name")
    element, element_bytes = element_type(contract.precision), 4 if contract.precision == "fp32" else 2
    for name, shape in shapes.items():
        tensor = tensors[name]
        _check_fields(tensor, _WEIGHT_FIELDS)
        if tensor.data_type != element:
            raise ValueError(f"{name} is not {contract.precision}")
        if tuple(tensor.dims) != shape:
            raise ValueError(f"{name} has shape {list(tensor.dims)}; expected {list(shape)}")
        if len(tensor.raw_data) != element_bytes * math.prod(shape):
            raise ValueError(f"{name} has {len(tensor.raw_data)} bytes; expected {element_bytes * math.prod(shape)}")


def _check_nodes(graph: onnx.GraphProto, expected: onnx.GraphProto) -> None:
    if len(graph.node) != len(expected.node):
        raise ValueError(f"{len(graph.node)} nodes; expected {len(expected.node)}")
    for found, wanted in zip(graph.node, expected.node, strict=True):
        if found != wanted:
            raise ValueError(
                f"node {shown(found.name) or 'without a name'} is another {shown(found.op_type) or 'operator'} "
                f"than {wanted.op_type} {wanted.name}"
            )


def _check_constants(graph: onnx.GraphProto, expected: onnx.GraphProto, weights: set[str]) -> None:
    """Compare the values of all initialisers but `weights` with those of `expected`."""
    from onnx import numpy_helper

    constants = {entry.name: entry for entry in graph.initializer if entry.name not in weights}
    wanted = {entry.name: entry for entry in expected.initializer}
    if constants.keys() != wanted.keys():
        raise ValueError(f"constants {shown(*constants) or 'none'}")
    for name, constant in wanted.items():
        found = constants[name]
        _check_fields(found, _CONSTANT_FIELDS)
        same_form = (found.data_type, found.dims) == (constant.data_type, constant.dims)
        if not same_form or found.ByteSize() > constant.ByteSize() + 8 * _LARGEST_CONSTANT:
            raise ValueError(f"{name} has another type or shape")
        if not np.array_equal(numpy_helper.to_array(found), numpy_helper.to_array(constant)):
            raise ValueError(f"{name} has another value")


def _is_finite(tensor: onnx.TensorProto) -> bool:
    """Whether all values of a tensor are finite numbers; tensors of integers are."""
    from onnx import TensorProto

    if tensor.data_type == TensorProto.BFLOAT16:
        # numpy has no bfloat16. Its exponent is ones for infinities and NaN alone.
        exponents = np.frombuffer(tensor.raw_data, "<u2") & 0x7F80
        return not (exponents == 0x7F80).any()
    if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
        kind = "<f4" if tensor.data_type == TensorProto.FLOAT else "<f2"
        return bool(np.isfinite(np.frombuffer(tensor.raw_data, kind)).all())
    return True
