"""Define the graph contract of training, export and all engines: tensor names, mask shapes, metadata.

A model with live dropout is a function of its input and of *masks*. The masks are ordinary boolean
inputs of the graph, because an inference engine treats a dropout node as identity. The shapes of the
masks follow from the axes of the data:

==================  ===========================  ==================================================
tensor              type and shape               meaning
==================  ===========================  ==================================================
``image``           float32 [1, C, H, W]         the noisy image in [0, 1], shared by all passes
``input_mask``      bool [N, C, H, W]            True: the pixel is kept
``dropout_mask_i``  bool [N, c, H/s, W/s]        True: the activation is kept; the graph scales it
                                                 by 1 / keep probability
``prediction``      float32 [N, C, H, W]         one denoised image for each pass
==================  ===========================  ==================================================

A *plain* model is one ordinary function instead, for programs that know nothing of masks. Nothing is hidden or dropped:

==================  ===========================  ==================================================
``image``           float32 [N, C, H, W]         noisy images in [0, 1], of any height and width
``denoised``        float32 [N, C, H, W]         the denoised images, in [0, 1]
==================  ===========================  ==================================================

`MaskSpec` knows nothing about images: its dimensions are integers or axis expressions such as
``"H/16"``. So the same masks, engines and ensemble can serve any model with live dropout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from self2self.errors import FileFormatError, UsageError, shown, typed
from self2self.model.layers import LEVELS, network_layers

SCHEMA_VERSION = 1
LIVE_SCHEMA_VERSION = 2
"""Schema of a network that is no denoiser (`live.contract`)."""
METADATA_PREFIX = "self2self."

IMAGE = "image"
INPUT_MASK = "input_mask"
PREDICTION = "prediction"
DENOISED = "denoised"
"""Output of a plain model."""

SIZE_MULTIPLE = 2**LEVELS
"""Height and width of the padded image are multiples of this number."""
MINIMUM_SIZE = 2 * SIZE_MULTIPLE
"""Smallest height and width of the padded image: reflect padding by one needs two pixels at the coarsest level."""
MAXIMUM_CHANNELS = 64
"""Largest number of colour channels: the memory of a pass grows with them. Images of files have up to four."""
MAXIMUM_SIDE = 2**16
"""Largest height and width that a file may be fixed to, in pixels."""
MAXIMUM_PADDED_SIDE = 1024
"""Largest side that a small image may have to be padded to."""
PRECISIONS = ("fp32", "fp16", "bf16")
"""Types that a graph may compute in; its inputs and its prediction have the same types in all of them."""
KEEP_LEVELS = 256
"""Keep probabilities are multiples of 1/256, so that one random byte decides one element."""
POLARITY = "true_keeps"
"""Meaning of True in a mask, as the metadata state it."""
VALUE_RANGE = [0.0, 1.0]
"""Range of the image's values, as the metadata state it."""


Nodata = float | Literal["none"] | None
"""The stored value that stands for no measurement; ``"none"`` if none does; None if the file tells, or its values."""


@dataclass(frozen=True, slots=True)
class MaskSpec:
    """One boolean mask input of the graph.

    Attributes:
        name: name of the input in the graph.
        dims: shape without the leading pass axis; each entry is an integer or an axis
            expression ``"H"`` or ``"H/16"``.
        keep_count: keep probability in 1/256, from 1 to 256.
    """

    name: str
    dims: tuple[int | str, ...]
    keep_count: int

    @property
    def keep_probability(self) -> float:
        """Probability that an element is True; exact in float32, because it is a multiple of 1/256."""
        return self.keep_count / KEEP_LEVELS

    def shape(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape for one pass, for sizes of the data axes such as ``{"H": 64, "W": 96}``.

        Raises:
            UsageError: the size of an axis is not a multiple of what the expression divides it by.
        """
        return tuple(dim if isinstance(dim, int) else _resolve_dim(dim, axes) for dim in self.dims)


def _resolve_dim(expression: str, axes: Mapping[str, int]) -> int:
    axis, _, divisor = expression.partition("/")
    size, step = axes[axis], int(divisor or 1)
    if size % step:
        raise UsageError(f"axis {axis} has {size} elements; expected a multiple of {step}. Pad the input first.")
    return size // step


def quantise_keep(drop_rate: float) -> int:
    """Return the keep probability 1 - `drop_rate` in units of 1/256, rounded to the nearest.

    Raises:
        UsageError: `drop_rate` is not a number in [0, 1), or is so close to 1 that nothing is kept.
    """
    if not 0.0 <= drop_rate < 1.0:
        raise UsageError(f"drop rate is {drop_rate:g}; expected 0.01 to 0.99, for example {typed('--drop-rate 0.4')}.")
    keep_count = round((1.0 - drop_rate) * KEEP_LEVELS)
    if keep_count == 0:
        raise UsageError(
            f"drop rate {drop_rate:g} keeps nothing; expected at most 0.99, for example {typed('--drop-rate 0.9')}."
        )
    return keep_count


def mask_specs(
    channels: int, encoder_width: int, decoder_widths: Sequence[int], input_drop_rate: float, decoder_drop_rate: float
) -> tuple[MaskSpec, ...]:
    """Return all masks of a network: the input mask, then the decoder's dropout masks from the coarsest level up.

    Args:
        channels: colour channels of the image.
        encoder_width: channels of every encoder level.
        decoder_widths: channels of the decoder levels, coarsest first.
        input_drop_rate: probability that a pixel value is hidden.
        decoder_drop_rate: probability that a decoder activation is dropped.

    Raises:
        UsageError: a drop rate is out of its range, as for `quantise_keep`.
    """
    input_keep, decoder_keep = quantise_keep(input_drop_rate), quantise_keep(decoder_drop_rate)
    specs = [MaskSpec(INPUT_MASK, (channels, "H", "W"), input_keep)]
    for layer in network_layers(channels, encoder_width, decoder_widths):
        if layer.mask:
            divisor = "" if layer.stride == 1 else f"/{layer.stride}"
            specs.append(MaskSpec(layer.mask, (layer.inputs, f"H{divisor}", f"W{divisor}"), decoder_keep))
    return tuple(specs)


@dataclass(frozen=True, slots=True)
class Contract:
    """Description of an exported model in its own metadata, so that a runtime needs no other file.

    Attributes:
        channels: colour channels of ``image`` and ``prediction``.
        masks: all mask inputs, in the order of the graph's inputs. Those of a plain model, which the graph does not
            take, keep everything; they tell the sizes of its activations.
        recipe: name of the recipe of the fit.
        seed: seed of the fit.
        steps: optimiser steps of the fit.
        image_sha256: `image_io.image_hash` of the image that the model was fitted to.
        image_range: the stored values of that image that map to 0 and 1 in ``image``; None in files of versions that
            did not record it.
        whole_range: whether black and white of an image's type map to 0 and 1 (`image_io.read_image`), for the fitted
            image and all others. Versions that did not record it mapped all images so.
        nodata: what the user said of missing pixels, for the fitted image and all others.
        mosaic: whether the image is a mosaic of colour filters, whose planes lie side by side, for all images.
        neighbours: number of pages on each side with which every page of a stack is fused before the passes
            (`imaging.neighbours`); a single image is scaled as a page without any that fit.
        noisy_share: share of the noisy image in the finished result, from 0 to 1; the rest is the mean prediction. The
            graph does not apply it.
        removes_impulses: whether impulses of an image are replaced before the passes (`imaging.outliers`).
        plain: whether the graph takes an image alone, of any size, and its output is the finished image.
        precision: type inside the graph, one of `PRECISIONS`; inputs and outputs stay float32.
        size_multiple: height and width have to be multiples of this number.
        minimum_size: height and width have to be at least this number.
    """

    channels: int
    masks: tuple[MaskSpec, ...]
    recipe: str = ""
    seed: int = 0
    steps: int = 0
    image_sha256: str = ""
    image_range: tuple[float, float] | None = None
    whole_range: bool = True
    nodata: Nodata = None
    mosaic: bool = False
    neighbours: int = 0
    noisy_share: float = 0.0
    removes_impulses: bool = False
    plain: bool = False
    precision: str = "fp32"
    size_multiple: int = SIZE_MULTIPLE
    minimum_size: int = MINIMUM_SIZE

    @property
    def mask_inputs(self) -> tuple[MaskSpec, ...]:
        """The masks that the graph takes; none for a plain model."""
        return () if self.plain else self.masks

    @property
    def output_name(self) -> str:
        """Name of the graph's output."""
        return DENOISED if self.plain else PREDICTION

    def input_names(self) -> list[str]:
        """Return the names of the graph's inputs in order."""
        return [IMAGE, *(mask.name for mask in self.mask_inputs)]

    def as_plain(self) -> Contract:
        """The contract of the plain model of the same fit."""
        return replace(self, masks=tuple(replace(mask, keep_count=KEEP_LEVELS) for mask in self.masks), plain=True)

    def to_metadata(self) -> dict[str, str]:
        """Return the key/value pairs for ``metadata_props`` of an ONNX file; each value is JSON."""
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
            "nodata": self.nodata,
            "mosaic": self.mosaic,
            "neighbours": self.neighbours,
            "noisy_share": self.noisy_share,
            "removes_impulses": self.removes_impulses,
        }
        if self.plain:
            fields["plain"] = True
        return {METADATA_PREFIX + key: json.dumps(value) for key, value in fields.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> Contract:
        """Read the contract from the pairs that `to_metadata` returned.

        Args:
            metadata: ``metadata_props`` of the file; other programs' keys are ignored.
            source: name of the file, for messages.

        Raises:
            FileFormatError: no self2self metadata, damaged metadata, or another schema version.
        """
        _check_schema(metadata, source)

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
                nodata=checked_nodata(json.loads(metadata.get(METADATA_PREFIX + "nodata", "null"))),
                mosaic=checked_flag(json.loads(metadata.get(METADATA_PREFIX + "mosaic", "false"))),
                neighbours=checked_count(json.loads(metadata.get(METADATA_PREFIX + "neighbours", "0"))),
                noisy_share=checked_share(json.loads(metadata.get(METADATA_PREFIX + "noisy_share", "0"))),
                removes_impulses=checked_flag(json.loads(metadata.get(METADATA_PREFIX + "removes_impulses", "false"))),
                plain=checked_flag(json.loads(metadata.get(METADATA_PREFIX + "plain", "false"))),
                precision=str(field("precision")),
                size_multiple=int(field("size_multiple")),
                minimum_size=int(field("minimum_size")),
            )
            _check_values(contract, field)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise FileFormatError(
                f"{source}: its self2self metadata is damaged ({shown(str(error))}). "
                "Export it again with: self2self export"
            ) from error
        return contract


def _check_schema(metadata: Mapping[str, str], source: str) -> None:
    version = metadata.get(METADATA_PREFIX + "schema_version")
    if version is None:
        raise FileFormatError(
            f"{source}: is not a self2self model (it has no self2self metadata). Make one with: self2self export"
        )
    if version == str(LIVE_SCHEMA_VERSION):
        raise FileFormatError(
            f"{source}: is a network with live dropout (schema {LIVE_SCHEMA_VERSION}) and no denoiser. "
            f"Run it with: self2self predict {source} INPUTS.npz"
        )
    if version != str(SCHEMA_VERSION):
        raise FileFormatError(
            f"{source}: has model schema {shown(version)}; this self2self reads schema {SCHEMA_VERSION}. "
            "Export it again with this version: self2self export"
        )


def _check_values(contract: Contract, field: Callable[[str], Any]) -> None:
    """Raise a ValueError if a value of `contract` is out of its range; `field` reads one value of the metadata."""
    if contract.precision not in PRECISIONS:
        raise ValueError(f"precision {contract.precision!r}")
    if not contract.masks or not all(1 <= mask.keep_count <= KEEP_LEVELS for mask in contract.masks):
        raise ValueError("masks")
    if contract.plain and any(mask.keep_count < KEEP_LEVELS for mask in contract.masks):
        raise ValueError("masks of a plain model")
    # All files of this schema have the same values here; other programs read them (docs/onnx.md).
    if (field("keep_levels"), field("value_range")) != (KEEP_LEVELS, VALUE_RANGE):
        raise ValueError("keep_levels or value_range")
    if any(m["polarity"] != POLARITY for m in field("masks")):
        raise ValueError("polarity")
    if not 1 <= contract.channels <= MAXIMUM_CHANNELS:
        raise ValueError(f"{contract.channels} channels")
    # The network can halve and pad only images of such sizes.
    if not 1 <= contract.size_multiple <= MAXIMUM_PADDED_SIDE or contract.size_multiple % SIZE_MULTIPLE:
        raise ValueError(f"size_multiple {contract.size_multiple}")
    if not MINIMUM_SIZE <= contract.minimum_size <= MAXIMUM_PADDED_SIDE:
        raise ValueError(f"minimum_size {contract.minimum_size}")


def checked_range(values: Any) -> tuple[float, float] | None:
    """Check a range that was read from JSON: a list of two finite numbers, the first not greater than the second.

    Returns:
        the two numbers; None if `values` is None.

    Raises:
        TypeError, ValueError: `values` is neither.
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
    """Check a flag that was read from JSON, and return it.

    Raises:
        ValueError: `value` is neither true nor false.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def checked_count(value: object) -> int:
    """Check a small number that was read from JSON, and return it.

    Raises:
        ValueError: `value` is no whole number from 0 to 255.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 256:
        raise ValueError(f"{value!r} is not a whole number from 0 to 255")
    return value


def checked_nodata(value: object) -> Nodata:
    """Check a value of missing pixels that was read from JSON, and return it.

    Raises:
        ValueError: `value` is neither a finite number nor ``"none"`` nor None.
    """
    if value is None:
        return None
    if value == "none":
        return "none"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"nodata {value!r}")
    return float(value)


def checked_share(value: object) -> float:
    """Check a share that was read from JSON, and return it as a float.

    Raises:
        ValueError: `value` is not a number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
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
