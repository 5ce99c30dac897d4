"""Build the network as an ONNX graph, node by node.

The graph is written down and not traced, because the network has one fixed form. A trace by `torch.onnx` takes 3 to 5 s
while the user waits; building the nodes takes milliseconds and needs no package besides `onnx`. The tests compare the
graph with the trace of the same network. `export.verify` compares every exported file with PyTorch's predictions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.model.contract import IMAGE, INPUT_MASK, METADATA_PREFIX, PREDICTION, Contract
from self2self.model.layers import NEGATIVE_SLOPE, NETWORK_INPUT, LayerKind, LayerSpec

if TYPE_CHECKING:
    import onnx

OPSET_VERSION = 18
"""First opset in which `Split` takes a number of parts; ONNX Runtime 1.14 and TensorRT 8.6 read it."""
IR_VERSION = 8
"""Version of the file format that came with opset 18; engines refuse formats newer than the ones they know."""
BF16_OPSET_VERSION = 22
"""The first opset in which a convolution takes bfloat16. From opset 18 to 22, the graph's operators changed only in the
types that they accept."""
BF16_IR_VERSION = 10
BATCH_AXIS = "N"
GRAPH_NAME = "self2self"
BORDER, ENLARGEMENT, SCALE = "border", "enlargement", "scale"
"""Names of the graph's constants: pads of a convolution's reflected border, scales of the upsampling, and 1/(1-p) of
the decoder's masks."""
WEIGHTS_KEY = METADATA_PREFIX + "weights"
"""Metadata key under which `note_weights` writes the lengths and digests of the weights."""


def element_type(precision: str) -> int:
    """ONNX's number (``onnx.TensorProto``) of the type that a graph of `precision` computes in."""
    from onnx import TensorProto

    return int({"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision])


def versions(precision: str) -> tuple[int, int]:
    """Versions of the operators (opset) and of the file format (IR) of a file of `precision`."""
    return (BF16_OPSET_VERSION, BF16_IR_VERSION) if precision == "bf16" else (OPSET_VERSION, IR_VERSION)


def network_graph(contract: Contract, layers: Iterable[LayerSpec], kind: int) -> onnx.GraphProto:
    """Build the graph for images of any size, without its weights.

    The graph reads the weights under their names in the network's ``state_dict``.

    Args:
        contract: its masks are the inputs; the decoder masks' keep probability gives their scale.
        layers: of the network, from `network_layers`.
        kind: type of all computations, of ``onnx.TensorProto``; inputs and the prediction keep the contract's types.
    """
    from onnx import TensorProto, helper

    nodes = Nodes(kind)
    image = IMAGE if kind == TensorProto.FLOAT else nodes.cast(IMAGE)
    kept = nodes.cast(INPUT_MASK)
    masked_image = nodes.add("Mul", [kept, image], "masked")
    nodes.network(layers, nodes.add("Concat", [kept, masked_image], "stem.seen", axis=1))
    dims = free_dims(contract)

    def value(name: str, of: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, of, dims[name])

    return helper.make_graph(
        nodes.made,
        GRAPH_NAME,
        [value(IMAGE, TensorProto.FLOAT), *(value(spec.name, TensorProto.BOOL) for spec in contract.masks)],
        [value(PREDICTION, TensorProto.FLOAT)],
        [*layer_constants(), helper.make_tensor(SCALE, kind, [], [1.0 / contract.masks[-1].keep_probability])],
    )


def layer_constants() -> list[onnx.TensorProto]:
    """The constants that the nodes of layers read, masks apart."""
    from onnx import numpy_helper

    return [
        numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), BORDER),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), ENLARGEMENT),
    ]


def free_dims(contract: Contract) -> dict[str, list[int | str]]:
    """Return the dimensions of all inputs and of the prediction in a file for images of any size."""
    colour_image: list[int | str] = [contract.channels, "H", "W"]
    masks: dict[str, list[int | str]] = {spec.name: [BATCH_AXIS, *spec.dims] for spec in contract.masks}
    return {IMAGE: [1, *colour_image], PREDICTION: [BATCH_AXIS, *colour_image], **masks}


class Nodes:
    """Collects the nodes of a graph in the order of the data; each node has the name of its output.

    Args:
        kind: type of all computations, of ``onnx.TensorProto``.
        masked: whether convolutions read masks where the layers have them.

    Attributes:
        made: the nodes so far.
    """

    def __init__(self, kind: int, *, masked: bool = True) -> None:
        self._kind = kind
        self._masked = masked
        self.made: list[onnx.NodeProto] = []

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output."""
        from onnx import helper

        self.made.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def cast(self, name: str) -> str:
        """Add a cast of the tensor `name` to the type of all computations."""
        return self.add("Cast", [name], f"{name}.cast", to=self._kind)

    def network(self, layers: Iterable[LayerSpec], seen: str) -> None:
        """Add the nodes of all `layers`; the first one reads `seen`, and the last one makes the prediction."""
        made = {NETWORK_INPUT: seen}
        for layer in layers:
            made[layer.name] = self.layer(layer, *(made[name] for name in layer.reads))

    def layer(self, layer: LayerSpec, *read: str) -> str:
        """The nodes of `layer`, which read the values `read`; the name of its result comes back."""
        from onnx import TensorProto

        match layer.kind:
            case LayerKind.GATED_CONVOLUTION:
                return self._gated(layer, *read)
            case LayerKind.POOLING:
                return self.add("MaxPool", [*read], layer.name, kernel_shape=[2, 2], strides=[2, 2])
            case LayerKind.UPSAMPLE_AND_CONCATENATE:
                return self._joined(layer, *read)
            case LayerKind.CONVOLUTION:
                return self._masked_convolution(layer, *read)
            case LayerKind.HEAD if self._kind == TensorProto.FLOAT:
                return self.convolved(layer, read[0], PREDICTION)
            case LayerKind.HEAD:
                return self.add("Cast", [self.convolved(layer, read[0])], PREDICTION, to=TensorProto.FLOAT)

    def convolved(self, layer: LayerSpec, x: str, output: str = "") -> str:
        """The 3x3 convolution of `layer` with its reflected border."""
        name = layer.convolution
        padded = self.add("Pad", [x, BORDER], f"{name}.padded", mode="reflect")
        return self.add("Conv", [padded, *layer.weights], output or f"{name}.convolved", kernel_shape=[3, 3])

    def _gated(self, layer: LayerSpec, x: str) -> str:
        from onnx import helper

        block = layer.name
        halves = [f"{block}.feature", f"{block}.gate"]
        split = [self.convolved(layer, x)]
        self.made.append(helper.make_node("Split", split, halves, f"{block}.halves", axis=1, num_outputs=2))
        feature = self.add("LeakyRelu", halves[:1], f"{block}.feature.active", alpha=NEGATIVE_SLOPE)
        gate = self.add("Sigmoid", halves[1:], f"{block}.gate.open")
        return self.add("Mul", [feature, gate], f"{block}.gated")

    def _joined(self, layer: LayerSpec, below: str, skip: str) -> str:
        enlarged = self.add(
            "Resize",
            # Without a region of interest, which is the second input.
            [below, "", ENLARGEMENT],
            layer.name.replace("joined", "enlarged"),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return self.add("Concat", [enlarged, skip], layer.name, axis=1)

    def _masked_convolution(self, layer: LayerSpec, x: str) -> str:
        if self._masked:
            scaled = self.add("Mul", [self.cast(layer.mask), SCALE], f"{layer.mask}.scaled")
            x = self.add("Mul", [x, scaled], f"{layer.name}.masked")
        convolved = self.convolved(layer, x)
        return self.add("LeakyRelu", [convolved], f"{layer.name}.active", alpha=NEGATIVE_SLOPE)


def note_weights(model: onnx.ModelProto) -> None:
    """Write the length in bytes and the start of the SHA-256 of each weight of `model` into its metadata."""
    entry = next((entry for entry in model.metadata_props if entry.key == WEIGHTS_KEY), None)
    entry = entry or model.metadata_props.add(key=WEIGHTS_KEY)
    entry.value = json.dumps(_digests(model.graph))


def damaged_weights(model: onnx.ModelProto) -> list[str]:
    """Return the names of weights that differ from those that `note_weights` saw, or that are missing.

    Files of versions without `note_weights` have no entry of it, and no weight is reported.

    Raises:
        ValueError: the entry of `note_weights` is damaged.
    """
    note = next((entry.value for entry in model.metadata_props if entry.key == WEIGHTS_KEY), None)
    if note is None:
        return []
    try:
        noted = {name: (int(length), str(digest)) for name, (length, digest) in json.loads(note).items()}
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{WEIGHTS_KEY} is damaged") from error
    found = _digests(model.graph)
    return [name for name in {**noted, **found} if noted.get(name) != found.get(name)]


def _digests(graph: onnx.GraphProto) -> dict[str, tuple[int, str]]:
    return {
        tensor.name: (len(tensor.raw_data), hashlib.sha256(tensor.raw_data).hexdigest()[:16])
        for tensor in graph.initializer
        if tensor.raw_data
    }
