"""The seam between training, export and every engine: tensor names, mask shapes, metadata.

A model with live dropout is a function of its input and of *masks*. The masks are ordinary
boolean inputs of the graph, because an inference engine treats a dropout node as identity, and
their shapes follow from the axes of the data:

==================  ===========================  ==================================================
tensor              type and shape               meaning
==================  ===========================  ==================================================
``image``           float32 [1, C, H, W]         the noisy image in [0, 1], shared by all passes
``input_mask``      bool [N, C, H, W]            True: the pixel is kept
``dropout_mask_i``  bool [N, c, H/s, W/s]        True: the activation is kept; the graph scales it
                                                 by 1 / keep probability
``prediction``      float32 [N, C, H, W]         one denoised image for each pass
==================  ===========================  ==================================================

`MaskSpec` knows nothing about images: dimensions are integers or axis expressions such as
``"H/16"``, so that the same masks, engines and ensemble can serve any model with live dropout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from self2self.errors import FileFormatError, UsageError
from self2self.model.layers import LEVELS, network_layers

SCHEMA_VERSION = 1
METADATA_PREFIX = "self2self."

IMAGE = "image"
INPUT_MASK = "input_mask"
PREDICTION = "prediction"

SIZE_MULTIPLE = 2**LEVELS
"""Height and width of the padded image are multiples of this."""
MINIMUM_SIZE = 2 * SIZE_MULTIPLE
"""Reflect padding by one at the bottleneck needs at least two pixels there."""
PRECISIONS = ("fp32", "fp16", "bf16")
"""Types that a graph may compute in; its inputs and its prediction have the same ones in all."""
KEEP_LEVELS = 256
"""Keep probabilities are multiples of 1/256, so that one random byte decides one element."""
POLARITY = "true_keeps"
VALUE_RANGE = [0.0, 1.0]


@dataclass(frozen=True, slots=True)
class MaskSpec:
    """One boolean mask input of the graph.

    Attributes:
        name: input name in the graph.
        dims: shape without the leading pass axis; each entry is an integer or an axis
            expression ``"H"`` or ``"H/16"``.
        keep_count: keep probability in 1/256, from 1 to 256.
    """

    name: str
    dims: tuple[int | str, ...]
    keep_count: int

    @property
    def keep_probability(self) -> float:
        """Probability that an element is True; exact in float32."""
        return self.keep_count / KEEP_LEVELS

    def shape(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape for one pass, for data axes such as ``{"H": 64, "W": 96}``."""
        return tuple(dim if isinstance(dim, int) else _resolve(dim, axes) for dim in self.dims)


def _resolve(expression: str, axes: Mapping[str, int]) -> int:
    axis, _, divisor = expression.partition("/")
    size, step = axes[axis], int(divisor or 1)
    if size % step:
        raise UsageError(f"axis {axis} has {size} elements; expected a multiple of {step}. Pad the input first.")
    return size // step


def quantise_keep(drop_rate: float) -> int:
    """Keep probability 1 - `drop_rate` in 1/256, rounded to the nearest.

    Raises:
        UsageError: `drop_rate` is not a number in [0, 1), or so close to 1 that nothing is kept.
    """
    if not 0.0 <= drop_rate < 1.0:
        raise UsageError(f"drop rate is {drop_rate:g}; expected a number from 0 to 0.99, for example --drop-rate 0.4.")
    keep_count = round((1.0 - drop_rate) * KEEP_LEVELS)
    if keep_count == 0:
        raise UsageError(f"drop rate {drop_rate:g} keeps nothing; expected at most 0.99, for example --drop-rate 0.9.")
    return keep_count


def mask_specs(
    channels: int, encoder_width: int, decoder_widths: Sequence[int], input_drop_rate: float, decoder_drop_rate: float
) -> tuple[MaskSpec, ...]:
    """All masks of a network: the input mask, then the decoder's from the coarsest level up."""
    input_keep, decoder_keep = quantise_keep(input_drop_rate), quantise_keep(decoder_drop_rate)
    specs = [MaskSpec(INPUT_MASK, (channels, "H", "W"), input_keep)]
    for layer in network_layers(channels, encoder_width, decoder_widths):
        if layer.mask:
            divisor = "" if layer.stride == 1 else f"/{layer.stride}"
            specs.append(MaskSpec(layer.mask, (layer.inputs, f"H{divisor}", f"W{divisor}"), decoder_keep))
    return tuple(specs)


@dataclass(frozen=True, slots=True)
class Contract:
    """What an exported model says about itself; a runtime needs the file and nothing else.

    Attributes:
        channels: colour channels of ``image`` and ``prediction``.
        masks: all mask inputs, in the order of the graph's inputs.
        recipe: name of the recipe of the fit.
        seed: seed of the fit.
        steps: optimiser steps of the fit.
        image_sha256: `image_io.image_hash` of the image that the model was fitted on.
        image_range: the values of that image's file that are 0 and 1 in ``image``; None in files of versions that did
            not note it.
        whole_range: whether 0 and 1 are black and white (`image_io.read_image`), as in those versions, for this image
            and all others.
        noisy_share: of the image itself in the finished result, beside that of the mean prediction, from 0 up to less
            than 1; the graph knows nothing of it.
        even_noise: whether noise counts as equally strong at every brightness, whatever an image looks like, when lost
            detail comes back (`Recipe.even_noise`).
        precision: type inside the graph, one of `PRECISIONS`; inputs and outputs stay float32.
        size_multiple: height and width have to be multiples of this.
        minimum_size: height and width have to be at least this.
    """

    channels: int
    masks: tuple[MaskSpec, ...]
    recipe: str = ""
    seed: int = 0
    steps: int = 0
    image_sha256: str = ""
    image_range: tuple[float, float] | None = None
    whole_range: bool = True
    noisy_share: float = 0.0
    even_noise: bool = False
    precision: str = "fp32"
    size_multiple: int = SIZE_MULTIPLE
    minimum_size: int = MINIMUM_SIZE

    def input_names(self) -> list[str]:
        """Names of the graph's inputs in order."""
        return [IMAGE, *(mask.name for mask in self.masks)]

    def to_metadata(self) -> dict[str, str]:
        """Key/value pairs for ``metadata_props`` of an ONNX file."""
        masks = [
            {"name": m.name, "dims": list(m.dims), "keep_count": m.keep_count, "polarity": POLARITY} for m in self.masks
        ]
        fields: dict[str, object] = {
            "schema_version": SCHEMA_VERSION,
            "channels": self.channels,
            "masks": masks,
            "keep_levels": KEEP_LEVELS,
            "value_range": VALUE_RANGE,
            "size_multiple": self.size_multiple,
            "minimum_size": self.minimum_size,
            "precision": self.precision,
            "recipe": self.recipe,
            "seed": self.seed,
            "steps": self.steps,
            "image_sha256": self.image_sha256,
            "image_range": self.image_range,
            "whole_range": self.whole_range,
            "noisy_share": self.noisy_share,
            "even_noise": self.even_noise,
        }
        return {METADATA_PREFIX + key: json.dumps(value) for key, value in fields.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> Contract:
        """Read what `to_metadata` wrote; `source` names the file in messages.

        Raises:
            FileFormatError: no self2self metadata, damaged metadata, or another schema version.
        """
        version = metadata.get(METADATA_PREFIX + "schema_version")
        if version is None:
            raise FileFormatError(
                f"{source}: is not a self2self model (it has no self2self metadata). Make one with: self2self export"
            )
        if version != str(SCHEMA_VERSION):
            raise FileFormatError(
                f"{source}: has model schema {version}; this self2self reads schema {SCHEMA_VERSION}. "
                "Export it again with this version: self2self export"
            )

        def field(key: str) -> Any:
            return json.loads(metadata[METADATA_PREFIX + key])

        try:
            masks = tuple(
                MaskSpec(str(m["name"]), tuple(_checked_dim(d) for d in m["dims"]), int(m["keep_count"]))
                for m in field("masks")
            )
            contract = cls(
                channels=int(field("channels")),
                masks=masks,
                recipe=str(field("recipe")),
                seed=int(field("seed")),
                steps=int(field("steps")),
                image_sha256=str(field("image_sha256")),
                image_range=checked_range(json.loads(metadata.get(METADATA_PREFIX + "image_range", "null"))),
                whole_range=checked_flag(json.loads(metadata.get(METADATA_PREFIX + "whole_range", "true"))),
                noisy_share=checked_share(json.loads(metadata.get(METADATA_PREFIX + "noisy_share", "0"))),
                even_noise=checked_flag(json.loads(metadata.get(METADATA_PREFIX + "even_noise", "false"))),
                precision=str(field("precision")),
                size_multiple=int(field("size_multiple")),
                minimum_size=int(field("minimum_size")),
            )
            if contract.precision not in PRECISIONS:
                raise ValueError(f"precision {contract.precision!r}")
            if not masks or not all(1 <= mask.keep_count <= KEEP_LEVELS for mask in masks):
                raise ValueError("masks")
            # Of one value in all files of this schema, which other programs read (docs/onnx.md).
            if (field("keep_levels"), field("value_range")) != (KEEP_LEVELS, VALUE_RANGE):
                raise ValueError("keep_levels or value_range")
            if any(m["polarity"] != POLARITY for m in field("masks")):
                raise ValueError("polarity")
            if contract.channels < 1:
                raise ValueError("channels")
            # Only such sizes can be halved and padded as the network does it.
            if contract.size_multiple < 1 or contract.size_multiple % SIZE_MULTIPLE:
                raise ValueError(f"size_multiple {contract.size_multiple}")
            if contract.minimum_size < MINIMUM_SIZE:
                raise ValueError(f"minimum_size {contract.minimum_size}")
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise FileFormatError(
                f"{source}: its self2self metadata is damaged ({error}). Export it again with: self2self export"
            ) from error
        return contract


def checked_range(values: Any) -> tuple[float, float] | None:
    """Two finite numbers as JSON has them, the first one less; or None.

    Raises:
        TypeError, ValueError: it is neither.
    """
    if values is None:
        return None
    if not isinstance(values, list):
        raise ValueError(f"range {values!r}")
    low, high = map(float, values)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"range {values!r}")
    return low, high


def checked_flag(value: object) -> bool:
    """True or false as JSON has them.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def checked_share(value: object) -> float:
    """A number from 0 up to less than 1, as JSON has it.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"share {value!r}")
    return float(value)


def _checked_dim(dim: object) -> int | str:
    if isinstance(dim, int) and dim > 0:
        return dim
    if isinstance(dim, str):
        axis, _, divisor = dim.partition("/")
        if axis.isidentifier() and (not divisor or (divisor.isdigit() and int(divisor) > 0)):
            return dim
    raise ValueError(f"mask dimension {dim!r}")
