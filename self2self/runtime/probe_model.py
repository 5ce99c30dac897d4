"""A tiny model to try engines on, made in memory: the exported graph with a few random weights.

PyTorch takes seconds to export one, and may be missing where only the runtime is. The operators
are therefore put together here in the order in which the exporter puts them, which
tests/runtime/test_probe_model.py compares. What the graph has to give is computed by the reference
implementation of the onnx package, in plain numpy: no engine is judged by another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.contract import IMAGE, INPUT_MASK, LEVELS, PREDICTION, Contract, dropout_channels, mask_specs
from self2self.masks import BoolArray, MaskMaker
from self2self.runtime.engine import FloatArray

if TYPE_CHECKING:
    import onnx

CHANNELS, ENCODER, DECODER = 1, 2, (4, 4, 4, 2, 2)
SIZE, PASSES, SEED, DROP_RATE = 64, 2, 0, 0.4
_OPSET, _IR_VERSION = 18, 8
_SLOPE = 0.2


@dataclass(frozen=True, slots=True)
class Case:
    """What engines are tried on.

    Attributes:
        model: the ONNX file.
        image: float32 [1, C, H, W].
        masks: of `PASSES` passes.
        expected: predictions, float32 [N, C, H, W].
    """

    model: bytes
    image: FloatArray
    masks: dict[str, BoolArray]
    expected: FloatArray


def make_case() -> Case:
    """The tiny model, an image and masks for it, and what it has to predict."""
    from onnx.reference import ReferenceEvaluator

    model = build_probe()
    random = np.random.default_rng(SEED)
    image: FloatArray = random.random((1, CHANNELS, SIZE, SIZE), dtype=np.float32)
    maker = MaskMaker(probe_contract().masks, {"H": SIZE, "W": SIZE}, SEED)
    masks = maker.make(0, PASSES)
    fed: dict[str, Any] = {IMAGE: image, **masks}
    expected: Any = ReferenceEvaluator(model).run([PREDICTION], fed)
    return Case(model.SerializeToString(), image, masks, np.asarray(expected[0], np.float32))


def probe_contract() -> Contract:
    """What the tiny model says about itself."""
    return Contract(CHANNELS, mask_specs(CHANNELS, ENCODER, DECODER, DROP_RATE, DROP_RATE), recipe="fast")


def build_probe() -> onnx.ModelProto:
    """The tiny model, with free batch and size."""
    from onnx import TensorProto, helper

    contract = probe_contract()
    graph = _Graph()
    kept = graph.add("Cast", INPUT_MASK, to=TensorProto.FLOAT)
    hidden = graph.add("Mul", kept, IMAGE)
    x = graph.gated(graph.add("Concat", kept, hidden, axis=1), "stem", 2 * CHANNELS)
    skips = []
    for level in range(LEVELS + 1):
        if level:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = graph.gated(x, f"encoder.{level}", ENCODER)
        skips.append(x)
    skips.pop()
    scale = 1.0 / contract.masks[-1].keep_probability
    joined = dropout_channels(ENCODER, DECODER)[::2]
    for index, (inputs, width) in enumerate(zip(joined, DECODER, strict=True)):
        x = graph.add(
            "Resize",
            x,
            "",
            graph.constant([1.0, 1.0, 2.0, 2.0]),
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )
        x = graph.add("Concat", x, skips.pop(), axis=1)
        for number, (name, channels) in enumerate((("first", inputs), ("second", width))):
            mask = graph.add("Cast", f"dropout_mask_{2 * index + number}", to=TensorProto.FLOAT)
            x = graph.add("Mul", x, graph.add("Mul", mask, graph.constant(scale)))
            x = graph.add("LeakyRelu", graph.convolve(x, f"decoder_{name}.{index}", channels, width), alpha=_SLOPE)
    graph.convolve(x, "head", DECODER[-1], CHANNELS, result=PREDICTION)
    colour: list[int | str | None] = [CHANNELS, "H", "W"]
    values = [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [1, *colour])]
    values += [helper.make_tensor_value_info(spec.name, TensorProto.BOOL, ["N", *spec.dims]) for spec in contract.masks]
    result = helper.make_tensor_value_info(PREDICTION, TensorProto.FLOAT, ["N", *colour])
    proto = helper.make_graph(graph.nodes, "probe", values, [result], graph.weights)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    helper.set_model_props(model, contract.to_metadata())
    return model


class _Graph:
    """Nodes and weights so far."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._random = np.random.default_rng(SEED)
        self._constants: dict[str, str] = {}

    def add(self, operator: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Append a node with one output, and return its name."""
        from onnx import helper

        name = result or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """The name of a constant, which is the same for the same value."""
        from onnx import numpy_helper

        key = str(value)
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants)}"
            self.weights.append(numpy_helper.from_array(np.asarray(value, kind), self._constants[key]))
        return self._constants[key]

    def convolve(self, x: str, name: str, inputs: int, outputs: int, result: str = "") -> str:
        """A 3x3 convolution with reflect padding and weights that keep the activations' size."""
        from onnx import numpy_helper

        weight = self._random.normal(0, np.sqrt(2 / (9 * inputs)), (outputs, inputs, 3, 3))
        bias = self._random.uniform(-0.2, 0.2, outputs)
        for suffix, array in (("weight", weight), ("bias", bias)):
            self.weights.append(numpy_helper.from_array(array.astype(np.float32), f"{name}.{suffix}"))
        x = self.add("Pad", x, self.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="reflect")
        return self.add("Conv", x, f"{name}.weight", f"{name}.bias", result=result, kernel_shape=[3, 3])

    def gated(self, x: str, name: str, inputs: int) -> str:
        """A gated convolution: LeakyReLU of one half of the channels times sigmoid of the other."""
        from onnx import helper

        both = self.convolve(x, f"{name}.conv", inputs, 2 * ENCODER)
        halves = [f"{name}.feature", f"{name}.gate"]
        self.nodes.append(helper.make_node("Split", [both], halves, axis=1, num_outputs=2))
        feature = self.add("LeakyRelu", halves[0], alpha=_SLOPE)
        return self.add("Mul", feature, self.add("Sigmoid", halves[1]))
