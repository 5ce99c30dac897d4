"""Build the network as an ONNX graph, node by node.

The graph is written down and not traced, because the network has one fixed form. A trace by `torch.onnx` takes 3 to 5 s
while the user waits; building the nodes takes milliseconds and needs no package besides `onnx`. The tests compare the
graph with the trace of the same network. `export.verify` compares every exported file with PyTorch's predictions.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.model.contract import IMAGE, LEVELS, METADATA_PREFIX, NEGATIVE_SLOPE, PREDICTION, Contract

if TYPE_CHECKING:
    import onnx

OPSET_VERSION = 18
"""First opset in which `Split` takes a number of parts; ONNX Runtime 1.14 and TensorRT 8.6 read it."""
IR_VERSION = 8
"""Version of the file format that came with opset 18; engines refuse formats newer than the ones they know."""
BATCH_AXIS = "N"
GRAPH_NAME = "self2self"
BORDER, ENLARGEMENT, SCALE = "border", "enlargement", "scale"
"""Names of the graph's constants: pads of a convolution's reflected border, scales of the upsampling, and 1/(1-p) of
the decoder's masks."""
WEIGHTS_KEY = METADATA_PREFIX + "weights"
"""Metadata key under which `note_weights` writes the lengths and digests of the weights."""


def network_graph(contract: Contract, kind: int) -> onnx.GraphProto:
    """Build the graph for images of any size, without its weights.

    The graph reads the weights under their names in the network's ``state_dict``.

    Args:
        contract: its masks are the inputs; the decoder masks' keep probability gives their scale.
        kind: type of all computations, of ``onnx.TensorProto``; inputs and the prediction keep the contract's types.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes = _Nodes(kind)
    image = IMAGE if kind == TensorProto.FLOAT else nodes.cast(IMAGE)
    input_mask, *dropout_masks = (spec.name for spec in contract.masks)
    kept = nodes.cast(input_mask)
    x = nodes.add("Concat", [kept, nodes.add("Mul", [kept, image], "masked")], "stem.seen", axis=1)
    x = nodes.gated("stem", x)
    skips = []
    for level in range(LEVELS + 1):
        if level:
            x = nodes.add("MaxPool", [x], f"encoder.{level}.pooled", kernel_shape=[2, 2], strides=[2, 2])
        x = nodes.gated(f"encoder.{level}", x)
        skips.append(x)
    x = skips.pop()
    for level in range(LEVELS):
        # Without a region of interest, which is the second input.
        x = nodes.add(
            "Resize",
            [x, "", ENLARGEMENT],
            f"decoder.{level}.enlarged",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        x = nodes.add("Concat", [x, skips.pop()], f"decoder.{level}.joined", axis=1)
        for part, mask in zip(("first", "second"), dropout_masks[2 * level : 2 * level + 2], strict=True):
            layer = f"decoder_{part}.{level}"
            scaled = nodes.add("Mul", [nodes.cast(mask), SCALE], f"{mask}.scaled")
            x = nodes.convolved(layer, nodes.add("Mul", [x, scaled], f"{layer}.masked"))
            x = nodes.add("LeakyRelu", [x], f"{layer}.active", alpha=NEGATIVE_SLOPE)
    if kind == TensorProto.FLOAT:
        nodes.convolved("head", x, PREDICTION)
    else:
        nodes.add("Cast", [nodes.convolved("head", x)], PREDICTION, to=TensorProto.FLOAT)

    dims = free_dims(contract)

    def value(name: str, of: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, of, dims[name])

    return helper.make_graph(
        nodes.made,
        GRAPH_NAME,
        [value(IMAGE, TensorProto.FLOAT), *(value(spec.name, TensorProto.BOOL) for spec in contract.masks)],
        [value(PREDICTION, TensorProto.FLOAT)],
        [
            numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), BORDER),
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), ENLARGEMENT),
            helper.make_tensor(SCALE, kind, [], [1.0 / contract.masks[-1].keep_probability]),
        ],
    )


def free_dims(contract: Contract) -> dict[str, list[int | str]]:
    """Return the dimensions of all inputs and of the prediction in a file for images of any size."""
    colour_image: list[int | str] = [contract.channels, "H", "W"]
    masks: dict[str, list[int | str]] = {spec.name: [BATCH_AXIS, *spec.dims] for spec in contract.masks}
    return {IMAGE: [1, *colour_image], PREDICTION: [BATCH_AXIS, *colour_image], **masks}


class _Nodes:
    """Collects the nodes of a graph in the order of the data; each node has the name of its output.

    Args:
        kind: type of all computations, of ``onnx.TensorProto``.

    Attributes:
        made: the nodes so far.
    """

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self.made: list[onnx.NodeProto] = []

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output."""
        from onnx import helper

        self.made.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def cast(self, name: str) -> str:
        """Add a cast of the tensor `name` to the type of all computations."""
        return self.add("Cast", [name], f"{name}.cast", to=self._kind)

    def convolved(self, layer: str, x: str, output: str = "") -> str:
        """The 3x3 convolution `layer` with its reflected border."""
        padded = self.add("Pad", [x, BORDER], f"{layer}.padded", mode="reflect")
        weights = [f"{layer}.weight", f"{layer}.bias"]
        return self.add("Conv", [padded, *weights], output or f"{layer}.convolved", kernel_shape=[3, 3])

    def gated(self, block: str, x: str) -> str:
        from onnx import helper

        halves = [f"{block}.feature", f"{block}.gate"]
        split = [self.convolved(f"{block}.conv", x)]
        self.made.append(helper.make_node("Split", split, halves, f"{block}.halves", axis=1, num_outputs=2))
        feature = self.add("LeakyRelu", halves[:1], f"{block}.feature.active", alpha=NEGATIVE_SLOPE)
        gate = self.add("Sigmoid", halves[1:], f"{block}.gate.open")
        return self.add("Mul", [feature, gate], f"{block}.gated")


def note_weights(model: onnx.ModelProto) -> None:
    """Write the length in bytes and the start of the SHA-256 of each weight of `model` into its metadata."""
    entry = next((entry for entry in model.metadata_props if entry.key == WEIGHTS_KEY), None)
    entry = entry or model.metadata_props.add(key=WEIGHTS_KEY)
    entry.value = json.dumps(_digests(model.graph))


def damaged_weights(model: onnx.ModelProto) -> list[str]:
    """Return the names of weights whose bytes differ from those that `note_weights` saw.

    Programs that rewrite graphs may remove, rename, cast or quantise weights. Such a weight has another name or another
    length, and is not reported. A weight that was damaged by accident keeps both. Without a call of `note_weights`, no
    weight is reported.

    Raises:
        ValueError: the entry of `note_weights` is damaged.
    """
    note = next((entry.value for entry in model.metadata_props if entry.key == WEIGHTS_KEY), "{}")
    try:
        noted = {name: (int(length), str(digest)) for name, (length, digest) in json.loads(note).items()}
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{WEIGHTS_KEY} is damaged") from error
    found = _digests(model.graph)
    both = [(name, *noted[name], *found[name]) for name in noted if name in found]
    return [name for name, length, digest, now, other in both if length == now and digest != other]


def _digests(graph: onnx.GraphProto) -> dict[str, tuple[int, str]]:
    return {
        tensor.name: (len(tensor.raw_data), hashlib.sha256(tensor.raw_data).hexdigest()[:16])
        for tensor in graph.initializer
        if tensor.raw_data
    }
