"""Describes a network with live dropout in the metadata of its ONNX file: schema 2.

Schema 1 is that of the denoiser (`model.contract`). This one knows nothing of images: any inputs, any outputs, and
draws of any place in the network. The keys have the same prefix, and each value is JSON:

==================  ====================================================================================
``schema_version``  2
``keep_levels``     65536: a mask is true with a probability of ``keep_count / 65536``
``axes``            name of each free axis → [input, axis]
``batch``           name of the axis that counts samples, axis 0 of the inputs; null for none
``separable``       whether each sample of a batch has its own rows of all masks, and of nothing else
``inputs``          ``name``, ``dtype`` (NumPy's name) and ``dims`` of each input that is data
``outputs``         ``name`` and ``kind`` of each output; ``batched``: axis 0 counts samples
``masks``           each random draw, in the order of the network (`LiveMask`)
==================  ====================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from self2self.errors import FileFormatError, UsageError, shown
from self2self.live.sizes import Size, evaluate
from self2self.machine.arguments import items
from self2self.model.contract import LIVE_SCHEMA_VERSION, METADATA_PREFIX, SCHEMA_VERSION, checked_flag

KEEP_LEVELS = 2**16
"""Probabilities of masks are multiples of 1/65536. With 1/256, a drop rate of 0.1 would become 0.1016, which is seen in
the mean of some thousand passes."""

Draw = Literal["mask", "uniform", "normal"]
"""What an input is drawn from: True with a fixed probability; uniform in (0, 1); the standard normal distribution."""
Kind = Literal["logits", "probabilities", "value", "image"]
"""What an output is. The classes of logits and probabilities are on axis 1; one class stands for yes or no. An image
has values from 0, black, to 1, white; a value may have any unit."""
OF_CLASSES: tuple[Kind, ...] = ("logits", "probabilities")
"""Kinds with classes."""
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
"""Types of the data inputs."""


_COARSEST = 0.01
"""Largest relative error that rounding to 1/65536 may give the smaller of keep and drop probability."""


def keep_count_of(keep: float) -> int | None:
    """A keep probability between 0 and 1 in 1/65536; None if that is too coarse, so that noise has to decide."""
    count = round(keep * KEEP_LEVELS)
    return None if abs(count / KEEP_LEVELS - keep) > _COARSEST * min(keep, 1 - keep) else count


def kinds_of(kind: Kind | Sequence[Kind], names: Sequence[str]) -> list[Kind]:
    """The kind of each output, of one for all or one for each.

    Raises:
        UsageError: a kind is unknown, or their number is not that of the outputs.
    """
    kinds: list[Kind] = (
        [kind] * len(names) if isinstance(kind, str) else list(items("kind", kind, "a name, or one for each output"))
    )
    if len(kinds) != len(names):
        raise UsageError(f"kind has {len(kinds)} entries; the outputs are {shown(', '.join(names))}.")
    for one in kinds:
        if one not in get_args(Kind):
            raise UsageError(f"kind is {one!r}; expected {', '.join(get_args(Kind))}.")
    return kinds


@dataclass(frozen=True, slots=True)
class LiveInput:
    """One input that is data.

    Attributes:
        name: name in the graph.
        dtype: NumPy's name of the type, one of `DTYPES`.
        dims: size of each axis: a number, or the name of a free axis.
    """

    name: str
    dtype: str
    dims: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class LiveOutput:
    """One output.

    Attributes:
        name: name in the graph.
        kind: what its values are.
        batched: whether axis 0 counts samples.
    """

    name: str
    kind: Kind
    batched: bool


@dataclass(frozen=True, slots=True)
class LiveMask:
    """One random draw of the network.

    Attributes:
        name: name of the input in the graph; its type is bool for masks, float32 for the other draws.
        site: path of the module that draws, as in ``named_modules()``; of a file of another program, name of the node.
        operator: PyTorch's or ONNX's operator that draws.
        draw: what it is drawn from.
        keep_count: of a mask, the probability of True in 1/65536; None for other draws. True keeps an activation,
            except that ``bernoulli`` is true where the network itself draws a one.
        dims: size of each axis, as expressions of the free axes (`sizes`).
        batched: whether axis 0 is the batch times a number, so that each sample has rows of its own.
    """

    name: str
    site: str
    operator: str
    draw: Draw
    keep_count: int | None
    dims: tuple[Size, ...]
    batched: bool

    def shape(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for free axes of these lengths.

        Raises:
            ValueError: an expression is wrong.
        """
        return tuple(evaluate(dim, axes) for dim in self.dims)


@dataclass(frozen=True, slots=True)
class LiveContract:
    """Description of a network with live dropout; the attributes are those of the table above."""

    inputs: tuple[LiveInput, ...]
    outputs: tuple[LiveOutput, ...]
    masks: tuple[LiveMask, ...]
    axes: dict[str, tuple[str, int]]
    batch: str | None
    separable: bool

    def to_metadata(self) -> dict[str, str]:
        """Return the key/value pairs for ``metadata_props`` of an ONNX file; each value is JSON."""
        fields = {"schema_version": LIVE_SCHEMA_VERSION, "keep_levels": KEEP_LEVELS, **asdict(self)}
        return {METADATA_PREFIX + key: json.dumps(value) for key, value in fields.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> LiveContract:
        """Read the contract from the pairs that `to_metadata` returned.

        Args:
            metadata: ``metadata_props`` of the file; other programs' keys are ignored.
            source: name of the file, for messages.

        Raises:
            FileFormatError: no self2self metadata, damaged metadata, or another schema version.
        """
        version = metadata.get(METADATA_PREFIX + "schema_version")
        if version is None:
            raise FileFormatError(
                f"{source}: has no live dropout (no self2self metadata). Make such a file with: "
                "self2self export --model MODULE:FACTORY"
            )
        if version == str(SCHEMA_VERSION):
            raise FileFormatError(f"{source}: is a denoiser (schema {version}). Run it with: self2self infer {source}")
        if version != str(LIVE_SCHEMA_VERSION):
            raise FileFormatError(
                f"{source}: has model schema {shown(version)}; this self2self reads schema {LIVE_SCHEMA_VERSION}. "
                "Export it again with this version."
            )

        def field(key: str) -> Any:
            return json.loads(metadata[METADATA_PREFIX + key])

        try:
            contract = cls(
                inputs=tuple(LiveInput(str(i["name"]), str(i["dtype"]), tuple(i["dims"])) for i in field("inputs")),
                outputs=tuple(
                    LiveOutput(str(o["name"]), o["kind"], checked_flag(o["batched"])) for o in field("outputs")
                ),
                masks=tuple(_mask(m) for m in field("masks")),
                axes={str(name): (str(place[0]), int(place[1])) for name, place in field("axes").items()},
                batch=field("batch"),
                separable=checked_flag(field("separable")),
            )
            if field("keep_levels") != KEEP_LEVELS:
                raise ValueError("keep_levels")
            _check(contract)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise FileFormatError(
                f"{source}: its self2self metadata is damaged ({shown(str(error))}). Export it again."
            ) from error
        return contract


def _mask(fields: Mapping[str, Any]) -> LiveMask:
    keep = fields["keep_count"]
    return LiveMask(
        name=str(fields["name"]),
        site=str(fields["site"]),
        operator=str(fields["operator"]),
        draw=fields["draw"],
        keep_count=None if keep is None else int(keep),
        dims=tuple(fields["dims"]),
        batched=checked_flag(fields["batched"]),
    )


def _check(contract: LiveContract) -> None:
    """Raise a ValueError if a value is out of its range, or the parts contradict each other."""
    if not (contract.inputs and contract.outputs and contract.masks):
        raise ValueError("no inputs, outputs or masks")
    names = [item.name for item in contract.inputs] + [mask.name for mask in contract.masks]
    if len(set(names)) != len(names) or len({item.name for item in contract.outputs}) != len(contract.outputs):
        raise ValueError("two tensors of one name")
    dims = {item.name: item.dims for item in contract.inputs}
    for axis, (name, index) in contract.axes.items():
        if not axis.isidentifier() or not 0 <= index < len(dims[name]) or dims[name][index] != axis:
            raise ValueError(f"axis {axis!r}")
    if contract.batch is not None and contract.axes[contract.batch][1] != 0:
        raise ValueError(f"batch {contract.batch!r}")
    for item in contract.inputs:
        if item.dtype not in DTYPES:
            raise ValueError(f"type {item.dtype!r}")
        if not all((type(dim) is int and dim > 0) or dim in contract.axes for dim in item.dims):
            raise ValueError(f"sizes of {item.name}")
    if any(output.kind not in get_args(Kind) for output in contract.outputs):
        raise ValueError("kind")
    for mask in contract.masks:
        if mask.draw not in get_args(Draw) or (mask.draw == "mask") != (mask.keep_count is not None):
            raise ValueError(f"draw of {mask.name}")
        if mask.keep_count is not None and not 0 < mask.keep_count < KEEP_LEVELS:
            raise ValueError(f"keep_count of {mask.name}")
        if not all(isinstance(dim, str) or (type(dim) is int and dim > 0) for dim in mask.dims):
            raise ValueError(f"sizes of {mask.name}")
        if mask.batched and (contract.batch is None or not mask.dims):
            raise ValueError(f"batch of {mask.name}")
        mask.shape(dict.fromkeys(contract.axes, 64))
