"""Build the network without masks as an ordinary ONNX graph: from an image of any size to the finished image.

The graph has a core, from the padded image to the prediction, and a frame around it. The frame pads by reflection to a
size that the network accepts, cuts the padding off again, gives back a share of the noisy image where the model says
so (`Contract.noisy_share`), and clips to [0, 1]. Other programs run all of it; our engines run the core
(`self2self.model.plain`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.model.contract import DENOISED, IMAGE, PREDICTION, Contract
from self2self.model.graph import BATCH_AXIS, GRAPH_NAME, Nodes, layer_constants
from self2self.model.layers import LayerSpec
from self2self.model.plain import PADDED

if TYPE_CHECKING:
    import onnx

_AXES = {"H": 2, "W": 3}


def plain_graph(
    contract: Contract,
    layers: Iterable[LayerSpec],
    kind: int,
    size: tuple[int, int] | None = None,
    ends: tuple[float, float] = (0.0, 1.0),
) -> onnx.GraphProto:
    """Build the graph without its weights, which it reads under their names in `plain.without_mask_channels`.

    Args:
        contract: of a plain model.
        layers: of the network, from `network_layers`.
        kind: type of all computations, of ``onnx.TensorProto``; image and result are float32.
        size: fixed (height, width); None for images of any size.
        ends: values of image and result that are 0 and 1 to the network.
    """
    from onnx import TensorProto, helper, numpy_helper

    low, high = ends
    changes_range = ends != (0.0, 1.0)
    constants: dict[str, NDArray[Any]] = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "two": np.array(2, np.int64),
        "minimum": np.array([contract.minimum_size], np.int64),
        "multiple": np.array([contract.size_multiple], np.int64),
        "rounding": np.array([contract.size_multiple - 1], np.int64),
        "black": np.array(0, np.float32),
        "white": np.array(1, np.float32),
        "low": np.array(low, np.float32),
        "span": np.array(high - low, np.float32),
        "share": np.array(contract.noisy_share, np.float32),
        "rest": np.array(1 - contract.noisy_share, np.float32),
    }
    nodes = Nodes(kind, masked=False)
    if size is None:
        for axis in _AXES:
            _free_indices(nodes, axis)
    else:
        constants |= _fixed_indices(contract, size)
    seen = IMAGE
    if changes_range:
        shifted = nodes.add("Sub", [IMAGE, "low"], "shifted")
        seen = nodes.add("Clip", [nodes.add("Div", [shifted, "span"], "ranged"), "black", "white"], "seen")
    rows = nodes.add("Gather", [seen, "H.pad"], "rows", axis=_AXES["H"])
    nodes.add("Gather", [rows, "W.pad"], PADDED, axis=_AXES["W"])
    nodes.network(layers, PADDED if kind == TensorProto.FLOAT else nodes.cast(PADDED))
    uncut = nodes.add("Gather", [PREDICTION, "H.crop"], "prediction.rows", axis=_AXES["H"])
    finished = nodes.add("Gather", [uncut, "W.crop"], "prediction.cut", axis=_AXES["W"])
    if contract.noisy_share:
        of_noisy = nodes.add("Mul", [seen, "share"], "noisy.share")
        finished = nodes.add("Add", [nodes.add("Mul", [finished, "rest"], "prediction.share"), of_noisy], "blended")
    clipped = nodes.add("Clip", [finished, "black", "white"], "clipped" if changes_range else DENOISED)
    if changes_range:
        nodes.add("Add", [nodes.add("Mul", [clipped, "span"], "spread"), "low"], DENOISED)
    read = {name for node in nodes.made for name in node.input}
    dims = [BATCH_AXIS, contract.channels, *(size or _AXES)]
    return helper.make_graph(
        nodes.made,
        GRAPH_NAME,
        [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(DENOISED, TensorProto.FLOAT, dims)],
        [
            *layer_constants(),
            *(numpy_helper.from_array(value, name) for name, value in constants.items() if name in read),
        ],
    )


def _fixed_indices(contract: Contract, size: tuple[int, int]) -> dict[str, NDArray[np.int64]]:
    """Which rows and columns of the image make up the padded one, and which of those are the image."""
    indices = {}
    for axis, length in zip(_AXES, size, strict=True):
        padded = max(contract.minimum_size, -(-length // contract.size_multiple) * contract.size_multiple)
        before = (padded - length) // 2
        place = (np.arange(padded, dtype=np.int64) - before) % max(1, 2 * length - 2)
        indices[f"{axis}.pad"] = length - 1 - np.abs(length - 1 - place)
        indices[f"{axis}.crop"] = np.arange(length, dtype=np.int64) + before
    return indices


def _free_indices(nodes: Nodes, axis: str) -> None:
    """The nodes that compute what `_fixed_indices` gives for one axis, from the length of the image.

    ONNX's own reflection fails where the padding is wider than the image. The index i of a pixel beside an image of n
    pixels repeats that of the pixel (n - 1) - |(n - 1) - i mod (2 n - 2)|.
    """

    def name(what: str) -> str:
        return f"{axis}.{what}"

    def add(operator: str, inputs: list[str], what: str) -> str:
        return nodes.add(operator, inputs, name(what))

    length = nodes.add("Shape", [IMAGE], name("length"), start=_AXES[axis], end=_AXES[axis] + 1)
    blocks = add("Div", [add("Add", [length, "rounding"], "raised"), "multiple"], "blocks")
    padded = add("Max", [add("Mul", [blocks, "multiple"], "rounded"), "minimum"], "padded")
    before = add("Div", [add("Sub", [padded, length], "added"), "two"], "before")
    counted = add("Range", ["zero", add("Squeeze", [padded], "padded.scalar"), "one"], "counted")
    last = add("Sub", [length, "one"], "last")
    # Of a single pixel the period would be 0.
    period = add("Max", [add("Mul", [last, "two"], "twice"), "one"], "period")
    place = add("Mod", [add("Sub", [counted, before], "shifted"), period], "place")
    add("Sub", [last, add("Abs", [add("Sub", [last, place], "from.last")], "distance")], "pad")
    image = add("Range", ["zero", add("Squeeze", [length], "length.scalar"), "one"], "image")
    add("Add", [image, before], "crop")
