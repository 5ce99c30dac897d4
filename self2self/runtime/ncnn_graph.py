"""An exported ONNX graph as an ncnn network: the same operators, one after another.

ncnn reads a text that lists layers and blobs, and a file of weights. It knows no batch axis, so
the network computes one pass. The translation follows the graph that the file holds, whatever its
widths and depth; it knows the operators that the export writes and refuses every other one.

Three things are folded on the way, none of which adds an operation: casts vanish, because ncnn
computes in float32 throughout; an activation moves into the convolution before it; and a constant
factor on an input is left to whoever writes that input (`Input.scale`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

_MAGIC = 7767517
_FLOAT32_WEIGHTS = b"\0\0\0\0"
"""Stands before a layer's weights and says that they are plain float32."""
_MULTIPLY, _REFLECT, _NEAREST, _VALID = 2, 2, 1, 1
_LEAKY_RELU, _SIGMOID = 2, 4
_REST = -233
"""The size of a slice that shares evenly what is left."""


class UnsupportedGraphError(ValueError):
    """The graph holds something that this translation does not know."""


@dataclass(frozen=True, slots=True)
class Input:
    """How to feed one input of the graph: its blob, and the factor that the graph applied to it."""

    blob: str
    scale: float


@dataclass(frozen=True, slots=True)
class NcnnGraph:
    """An ncnn network and how its blobs are called.

    Attributes:
        param: text for ``Net.load_param_mem``.
        weights: what belongs into the file for ``Net.load_model``.
        inputs: by the names in the ONNX graph.
        outputs: blobs by the names in the ONNX graph.
    """

    param: str
    weights: bytes
    inputs: dict[str, Input]
    outputs: dict[str, str]


@dataclass(slots=True)
class _Layer:
    kind: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, str] = field(default_factory=dict)
    weights: bytes = b""


def translate(graph: onnx.GraphProto) -> NcnnGraph:
    """Translate `graph`.

    Raises:
        UnsupportedGraphError: it holds an operator, or a variant of one, that is not known here.
    """
    return _Translation(graph).result()


class _Translation:
    """The state of one translation: layers so far, and what the names of the graph stand for."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self.constants: dict[str, NDArray[Any]] = {
            entry.name: numpy_helper.to_array(entry) for entry in graph.initializer
        }
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses.update(value.name for value in graph.output)
        self.same_as: dict[str, str] = {}
        self.scales = {value.name: 1.0 for value in graph.input}
        self.maker: dict[str, _Layer] = {}
        self.layers = [_Layer("Input", [], [value.name]) for value in graph.input]

    def result(self) -> NcnnGraph:
        for node in self.graph.node:
            translate_node = _OPERATORS.get(node.op_type)
            if translate_node is None:
                raise UnsupportedGraphError(f"operator {node.op_type}")
            translate_node(self, node)
        outputs = {value.name: self.resolve(value.name) for value in self.graph.output}
        layers = _with_shared_blobs_split(self.layers)
        blobs = {name: f"b{index}" for index, name in enumerate(name for layer in layers for name in layer.outputs)}
        lines = [str(_MAGIC), f"{len(layers)} {len(blobs)}"]
        for index, layer in enumerate(layers):
            names = [blobs[name] for name in (*layer.inputs, *layer.outputs)]
            params = [f"{key}={value}" for key, value in layer.params.items()]
            counts = [str(len(layer.inputs)), str(len(layer.outputs))]
            lines.append(" ".join([layer.kind, f"layer{index}", *counts, *names, *params]))
        return NcnnGraph(
            "\n".join(lines) + "\n",
            b"".join(layer.weights for layer in layers),
            {name: Input(blobs[name], scale) for name, scale in self.scales.items()},
            {name: blobs[blob] for name, blob in outputs.items()},
        )

    def resolve(self, name: str) -> str:
        """The blob that holds the value called `name`."""
        while name in self.same_as:
            name = self.same_as[name]
        if name in self.constants:
            raise UnsupportedGraphError(f"constant {name} where a computed value is expected")
        return name

    def add(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        params: dict[int, str] | None = None,
        weights: bytes = b"",
    ) -> None:
        """Append a layer; names are those of the graph."""
        layer = _Layer(kind, [self.resolve(name) for name in inputs], list(outputs), params or {}, weights)
        self.layers.append(layer)
        self.maker.update(dict.fromkeys(outputs, layer))

    def cast(self, node: onnx.NodeProto) -> None:
        from onnx import TensorProto

        if _attributes(node)["to"] not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            raise _unsupported(node, "to a type other than a float")
        self.same_as[node.output[0]] = node.input[0]

    def multiply(self, node: onnx.NodeProto) -> None:
        factors = [name for name in node.input if name in self.constants]
        if not factors:
            self.add("BinaryOp", node.input, node.output, {0: str(_MULTIPLY)})
            return
        rest = [name for name in node.input if name not in self.constants]
        if len(rest) != 1 or self.constants[factors[0]].size != 1:
            raise _unsupported(node, "by a constant that is not one number")
        factor = float(self.constants[factors[0]].reshape(()))
        if self.used_once_from_input(rest[0]):
            self.scales[self.resolve(rest[0])] *= factor
            self.same_as[node.output[0]] = rest[0]
        else:
            self.add("BinaryOp", rest, node.output, {0: str(_MULTIPLY), 1: "1", 2: _number(factor)})

    def used_once_from_input(self, name: str) -> bool:
        """Whether `name` is a graph input, perhaps cast or scaled, and nothing else reads any of these."""
        while self.uses[name] == 1:
            if name not in self.same_as:
                return name in self.scales
            name = self.same_as[name]
        return False

    def pad(self, node: onnx.NodeProto) -> None:
        if _attributes(node).get("mode") != b"reflect" or len(node.input) > 2:
            raise _unsupported(node, "in another mode than reflect")
        pads = self.numbers(node, 1)
        if len(pads) != 8 or any(pads[axis] for axis in (0, 1, 4, 5)) or min(pads) < 0:
            raise _unsupported(node, "of other axes than height and width")
        top, left, bottom, right = (str(int(pads[axis])) for axis in (2, 3, 6, 7))
        self.add("Padding", node.input[:1], node.output, {0: top, 1: bottom, 2: left, 3: right, 4: str(_REFLECT)})

    def convolution(self, node: onnx.NodeProto) -> None:
        attributes = _attributes(node)
        if attributes.get("group", 1) != 1 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise _unsupported(node, "with groups or automatic padding")
        if any(name not in self.constants for name in node.input[1:]):
            raise _unsupported(node, "with computed weights")
        weight, *bias = (self.constants[name].astype("<f4") for name in node.input[1:])
        if weight.ndim != 4:
            raise _unsupported(node, "of other than two dimensions")
        stride, dilation = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        values = {0: len(weight), 1: weight.shape[3], 11: weight.shape[2], 2: dilation[1], 12: dilation[0]}
        values |= {3: stride[1], 13: stride[0], 4: left, 14: top, 15: right, 16: bottom, 5: len(bias), 6: weight.size}
        data = _FLOAT32_WEIGHTS + b"".join(array.tobytes() for array in (weight, *bias))
        self.add("Convolution", node.input[:1], node.output, {key: str(value) for key, value in values.items()}, data)

    def leaky_relu(self, node: onnx.NodeProto) -> None:
        slope = _number(_attributes(node).get("alpha", 0.01))
        if not self.moved_into_convolution(node, _LEAKY_RELU, slope):
            self.add("ReLU", node.input, node.output, {0: slope})

    def sigmoid(self, node: onnx.NodeProto) -> None:
        if not self.moved_into_convolution(node, _SIGMOID):
            self.add("Sigmoid", node.input, node.output)

    def moved_into_convolution(self, node: onnx.NodeProto, activation: int, *arguments: str) -> bool:
        """Whether the activation `node` could be left to the convolution before it."""
        layer = self.maker.get(node.input[0])
        if layer is None or layer.kind != "Convolution" or 9 in layer.params or self.uses[node.input[0]] != 1:
            return False
        layer.params[9] = str(activation)
        if arguments:
            layer.params[-23310] = ",".join([str(len(arguments)), *arguments])
        self.same_as[node.output[0]] = node.input[0]
        return True

    def split(self, node: onnx.NodeProto) -> None:
        if _attributes(node).get("axis", 0) != 1:
            raise _unsupported(node, "along another axis than the channels")
        sizes = self.numbers(node, 1) if len(node.input) > 1 else [_REST] * len(node.output)
        listed = ",".join(str(int(value)) for value in (len(sizes), *sizes))
        self.add("Slice", node.input[:1], node.output, {-23300: listed, 1: "0"})

    def concat(self, node: onnx.NodeProto) -> None:
        if _attributes(node)["axis"] != 1:
            raise _unsupported(node, "along another axis than the channels")
        self.add("Concat", node.input, node.output, {0: "0"})

    def max_pool(self, node: onnx.NodeProto) -> None:
        attributes = _attributes(node)
        automatic = attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
        dilated = any(value != 1 for value in attributes.get("dilations", []))
        if automatic or dilated or attributes.get("ceil_mode") or any(attributes.get("pads", [])):
            raise _unsupported(node, "with padding, dilation or rounding up")
        height, width = attributes["kernel_shape"]
        down, across = attributes.get("strides", [1, 1])
        values = {0: 0, 1: width, 11: height, 2: across, 12: down, 5: _VALID}
        self.add("Pooling", node.input, node.output, {key: str(value) for key, value in values.items()})

    def resize(self, node: onnx.NodeProto) -> None:
        attributes = _attributes(node)
        asked = (
            attributes.get("mode", b"nearest"),
            attributes.get("nearest_mode", b"round_prefer_floor"),
            attributes.get("coordinate_transformation_mode", b"half_pixel"),
        )
        scales = self.numbers(node, 2) if len(node.input) == 3 else []
        whole = len(scales) == 4 and scales[:2] == [1, 1] and all(value >= 1 and value % 1 == 0 for value in scales)
        if asked != (b"nearest", b"floor", b"asymmetric") or not whole:
            raise _unsupported(node, "by other than repeating rows and columns")
        params = {0: str(_NEAREST), 1: _number(scales[2]), 2: _number(scales[3])}
        self.add("Interp", node.input[:1], node.output, params)

    def numbers(self, node: onnx.NodeProto, index: int) -> list[float]:
        """The constant input of `node` at `index`."""
        if node.input[index] not in self.constants:
            raise _unsupported(node, "with a computed argument")
        return [float(value) for value in self.constants[node.input[index]].ravel()]


_OPERATORS: dict[str, Callable[[_Translation, onnx.NodeProto], None]] = {
    "Cast": _Translation.cast,
    "Concat": _Translation.concat,
    "Conv": _Translation.convolution,
    "LeakyRelu": _Translation.leaky_relu,
    "MaxPool": _Translation.max_pool,
    "Mul": _Translation.multiply,
    "Pad": _Translation.pad,
    "Resize": _Translation.resize,
    "Sigmoid": _Translation.sigmoid,
    "Split": _Translation.split,
}


def _with_shared_blobs_split(layers: list[_Layer]) -> list[_Layer]:
    """Give every reader of a blob its own name for it, as ncnn wants; nothing is copied at run time."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    taken: Counter[str] = Counter()
    done = []
    for layer in layers:
        inputs = []
        for name in layer.inputs:
            inputs.append(f"{name} {taken[name]}" if readers[name] > 1 else name)
            taken[name] += 1
        done.append(_Layer(layer.kind, inputs, layer.outputs, layer.params, layer.weights))
        done += [
            _Layer("Split", [name], [f"{name} {index}" for index in range(readers[name])])
            for name in layer.outputs
            if readers[name] > 1
        ]
    return done


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx.helper import get_attribute_value

    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


def _number(value: float) -> str:
    """A float32 in as many digits as it needs."""
    return f"{np.float32(value):.9g}" if value % 1 else f"{value:.1f}"


def _unsupported(node: onnx.NodeProto, what: str) -> UnsupportedGraphError:
    return UnsupportedGraphError(f"{node.op_type} {what}")
