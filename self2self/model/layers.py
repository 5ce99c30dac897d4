"""Lists the layers of the network with their channels, resolution, mask and weights, in the order of the data.

The network has one fixed form, and this table is its only description. Masks, the ONNX graph, the modules of PyTorch,
layers that an engine prepares for itself and the count of operations all take names and shapes from it. Forward passes
that are written by hand, for speed, are compared with the table by ``tests/model/test_layers.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

LEVELS = 5
"""Number of 2x2 poolings of the network, and of decoder levels."""
NEGATIVE_SLOPE = 0.2
"""Slope of the leaky ReLUs below zero."""
NETWORK_INPUT = "network_input"
"""Stands in `LayerSpec.reads` for the input mask and the masked image, concatenated along the channels."""


class LayerKind(StrEnum):
    """What a layer computes; every convolution is 3x3 with a reflected border of one pixel."""

    GATED_CONVOLUTION = "gated convolution"
    """LeakyReLU(a) * sigmoid(b) of the two halves a and b of one convolution's result."""
    POOLING = "pooling"
    """Maximum over 2x2 pixels."""
    UPSAMPLE_AND_CONCATENATE = "upsample and concatenate"
    """The layer below at twice its size, then the skip connection."""
    CONVOLUTION = "convolution"
    """A dropout mask, scaled by 1/(1-p), a convolution and a leaky ReLU."""
    HEAD = "head"
    """A convolution alone; its result is the prediction."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer of the network.

    Attributes:
        name: of the module of `Self2SelfNet`; of a layer without weights, of its result in the ONNX graph.
        kind: what it computes.
        inputs: channels of all that it reads together.
        outputs: channels of its result.
        stride: its result has 1/stride of the image's height and width.
        reads: names of the layers whose results it reads, in the order of the channels.
        mask: name of the dropout mask that is applied to what it reads; empty without one.
    """

    name: str
    kind: LayerKind
    inputs: int
    outputs: int
    stride: int
    reads: tuple[str, ...]
    mask: str = ""

    @property
    def convolution(self) -> str:
        """Name of the module that holds its weights; empty for a layer without weights."""
        if self.kind == LayerKind.GATED_CONVOLUTION:
            return f"{self.name}.conv"
        return self.name if self.kind in (LayerKind.CONVOLUTION, LayerKind.HEAD) else ""

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Names of its weight and its bias in the network's ``state_dict``, to their shapes; empty without weights."""
        if not self.convolution:
            return {}
        # The convolution of a gated one computes both halves.
        outputs = 2 * self.outputs if self.kind == LayerKind.GATED_CONVOLUTION else self.outputs
        return {f"{self.convolution}.weight": (outputs, self.inputs, 3, 3), f"{self.convolution}.bias": (outputs,)}


def network_layers(channels: int, encoder_width: int, decoder_widths: Sequence[int]) -> tuple[LayerSpec, ...]:
    """All layers of a network, in the order of the data.

    Args:
        channels: colour channels of the image.
        encoder_width: channels of every encoder level.
        decoder_widths: channels of the decoder levels, coarsest first.

    Raises:
        ValueError: there are not `LEVELS` decoder widths.
    """
    if len(decoder_widths) != LEVELS:
        raise ValueError(f"decoder_widths has {len(decoder_widths)} entries; expected {LEVELS}")
    gated, pooling = LayerKind.GATED_CONVOLUTION, LayerKind.POOLING
    layers = [LayerSpec("stem", gated, 2 * channels, encoder_width, 1, (NETWORK_INPUT,))]

    def add(name: str, kind: LayerKind, outputs: int, stride: int, mask: str = "") -> None:
        """A layer that reads the one before."""
        before = layers[-1]
        layers.append(LayerSpec(name, kind, before.outputs, outputs, stride, (before.name,), mask))

    for level in range(LEVELS + 1):
        if level:
            add(f"encoder.{level}.pooled", pooling, encoder_width, 2**level)
        add(f"encoder.{level}", gated, encoder_width, 2**level)
    for level, width in enumerate(decoder_widths):
        below, skip_level = layers[-1], LEVELS - 1 - level
        stride, joined = 2**skip_level, below.outputs + encoder_width
        reads = (below.name, f"encoder.{skip_level}")
        layers.append(
            LayerSpec(f"decoder.{level}.joined", LayerKind.UPSAMPLE_AND_CONCATENATE, joined, joined, stride, reads)
        )
        add(f"decoder_first.{level}", LayerKind.CONVOLUTION, width, stride, f"dropout_mask_{2 * level}")
        add(f"decoder_second.{level}", LayerKind.CONVOLUTION, width, stride, f"dropout_mask_{2 * level + 1}")
    add("head", LayerKind.HEAD, channels, 1)
    return tuple(layers)


CONVOLUTIONS = tuple(layer.convolution for layer in network_layers(1, 1, (1,) * LEVELS) if layer.convolution)
"""Names of the modules that hold weights, in the order of the data; they are the same for all widths."""


def widths_of(shapes: Mapping[str, Sequence[int]]) -> tuple[int, tuple[int, ...]]:
    """The encoder width and the decoder widths of a network, from the shapes of its ``state_dict``.

    Raises:
        KeyError, IndexError: weights are missing, or have no axes.
    """
    decoder_widths = tuple(shapes[f"decoder_first.{level}.weight"][0] for level in range(LEVELS))
    return shapes["stem.conv.weight"][0] // 2, decoder_widths


def weighted_inputs(layers: Iterable[LayerSpec]) -> dict[str, tuple[str, ...]]:
    """For each layer with weights, the layers with weights whose results it reads, in the order of the channels.

    Pooling, upsampling and concatenation between them are passed over; the stem, which reads the image, reads none.
    """
    found: dict[str, tuple[str, ...]] = {}
    makers: dict[str, tuple[str, ...]] = {NETWORK_INPUT: ()}
    for layer in layers:
        read = tuple(maker for name in layer.reads for maker in makers[name])
        makers[layer.name] = read
        if layer.convolution:
            found[layer.name], makers[layer.name] = read, (layer.name,)
    return found
