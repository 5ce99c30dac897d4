"""Names and weights of plain models, and the part of their graph that engines run.

The graph of a plain model has a core, from the padded image to the prediction, and a frame around it, which pads and
finishes the image (`model.plain_graph`). Engines run the core, because the ensemble's loop pads, cuts into tiles and
finishes images by itself.

The network without masks sees an input mask of ones. Their part of the first convolution is the same at every pixel, so
it is added to the bias, and the graph reads the image alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from self2self.model.contract import IMAGE, PREDICTION, Contract
from self2self.model.layers import LayerSpec

if TYPE_CHECKING:
    import onnx

FloatArray = NDArray[np.float32]

PADDED = "padded"
"""Name of the padded image, where the core begins."""
MIRRORINGS = (0, 3, 1, 2)
"""Orientations (`imaging.orientation`) whose predictions are averaged, the most different ones first: as the image is,
turned by half a turn, and mirrored along one axis."""
MANY_PIXELS = 2**22
"""Pixels of all images of a job together from which two orientations are averaged instead of four: each takes as long
as a pass, and the last two gain 0.02 dB (dev/log)."""
STEM_WEIGHT, STEM_BIAS = "stem.conv.weight", "stem.conv.bias"


def mirrorings_for(pixels: int) -> tuple[int, ...]:
    """The orientations whose predictions are averaged for images that have so many pixels together."""
    return MIRRORINGS if pixels < MANY_PIXELS else MIRRORINGS[:2]


def weights_of(layers: Iterable[LayerSpec], contract: Contract) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights in a file of `contract`, whose network has these `layers`."""
    shapes = {name: shape for layer in layers for name, shape in layer.weights.items()}
    if contract.plain:
        outputs, _, *kernel = shapes[STEM_WEIGHT]
        shapes[STEM_WEIGHT] = (outputs, contract.channels, *kernel)
    return shapes


def without_mask_channels(weights: Mapping[str, FloatArray], channels: int) -> dict[str, FloatArray]:
    """The weights of the network for an input mask of ones, which the first convolution then does not read.

    Args:
        weights: by their names in the network's ``state_dict``.
        channels: of the image.
    """
    of_mask, of_image = np.split(weights[STEM_WEIGHT], [channels], axis=1)
    bias = weights[STEM_BIAS] + of_mask.sum(axis=(1, 2, 3), dtype=np.float64)
    return {**weights, STEM_WEIGHT: np.ascontiguousarray(of_image), STEM_BIAS: bias.astype(np.float32)}


def with_mask_channels(weights: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Weights of the whole network that compute the same as those of `without_mask_channels`."""
    of_image = weights[STEM_WEIGHT]
    return {**weights, STEM_WEIGHT: np.concatenate([np.zeros_like(of_image), of_image], axis=1)}


def core_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """The core of a plain model as a model of its own, from ``image`` [N, C, H, W] to ``prediction``.

    Args:
        model: a plain model; it is not changed.

    Raises:
        ValueError: another program has rewritten the graph, so that the core cannot be found.
    """
    from onnx import TensorProto, helper

    makers = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    found: set[int] = set()
    left = [PREDICTION]
    while left:
        name = left.pop()
        if name == IMAGE or (name == PREDICTION and name not in makers):
            raise ValueError(f"no values {PADDED} and {PREDICTION}")
        index = makers.get(name) if name != PADDED else None
        if index is not None and index not in found:
            found.add(index)
            left += model.graph.node[index].input
    core = helper.make_graph(
        [model.graph.node[index] for index in sorted(found)],
        model.graph.name,
        [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [None] * 4)],
        [helper.make_tensor_value_info(PREDICTION, TensorProto.FLOAT, [None] * 4)],
    )
    for node in core.node:
        for position, name in enumerate(node.input):
            if name == PADDED:
                node.input[position] = IMAGE
    read = {name for node in core.node for name in node.input}
    core.initializer.extend(entry for entry in model.graph.initializer if entry.name in read)
    return helper.make_model(core, opset_imports=list(model.opset_import), ir_version=model.ir_version)
