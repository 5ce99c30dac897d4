"""Reads a model file, and checks that its graph and weights are what its contract says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from self2self.errors import FileFormatError, InputError, UsageError
from self2self.model.contract import IMAGE, PREDICTION, Contract
from self2self.model.graph import damaged_weights

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class Model:
    """An exported model; its contract has been checked against its graph.

    Attributes:
        path: of the file; an engine reads it again.
        contract: the description that the file carries.
        size: the only (height, width) that the graph accepts; None for any.
    """

    path: Path
    contract: Contract
    size: tuple[int, int] | None = None


def load_model(path: str | os.PathLike[str]) -> Model:
    """Open an exported `.onnx` file.

    Raises:
        InputError: the file is missing or cannot be read.
        FileFormatError: the file is not ONNX, damaged, not a self2self model, or of another schema version.
    """
    path = Path(path)
    proto = read_proto(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    contract = Contract.from_metadata(metadata, str(path))
    try:
        size = _check_graph(proto.graph, contract)
        damaged = damaged_weights(proto)
    except (KeyError, ValueError, UsageError) as error:
        raise FileFormatError(
            f"{path}: its graph is not what its metadata promise ({error}). Export it again: self2self export --force"
        ) from error
    if damaged:
        raise FileFormatError(
            f"{path}: is damaged, or another program changed its weights ({', '.join(damaged[:3])}). "
            "Export it again: self2self export --force"
        )
    return Model(path, contract, size)


def read_proto(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file.

    Raises:
        InputError, FileFormatError: as for `load_model`.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected an exported .onnx file.")
    try:
        # onnx.load would choose the parser by the file's suffix and follow references to other files.
        proto = onnx.load_model_from_string(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such model. Make one with: self2self fit IMAGE, then: self2self export"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (DecodeError, ValueError) as error:
        raise _damaged(path) from error
    if not proto.graph.node:
        raise _damaged(path)
    return proto


def _damaged(path: Path) -> FileFormatError:
    return FileFormatError(f"{path}: is not an ONNX file or is damaged. Export it again: self2self export --force")


def _check_graph(graph: onnx.GraphProto, contract: Contract) -> tuple[int, int] | None:
    """Compare the graph's names, types and shapes with `contract`.

    Returns:
        the fixed (height, width) of the graph; None if it accepts any.

    Raises:
        ValueError, KeyError, UsageError: graph and contract differ, or the contract contradicts itself.
    """
    from onnx import TensorProto

    names = [value.name for value in graph.input]
    if names != contract.input_names():
        raise ValueError(f"inputs {', '.join(names) or 'none'}")
    if [value.name for value in graph.output] != [PREDICTION]:
        raise ValueError(f"outputs {', '.join(value.name for value in graph.output) or 'none'}")
    found = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
    dims = {name: [dim.dim_value or None for dim in tensor.shape.dim] for name, tensor in found.items()}
    image = dims[IMAGE]
    if len(image) != 4:
        raise ValueError(f"{IMAGE} has {len(image)} axes")
    height, width = image[2:]
    axes = {axis: length for axis, length in (("H", height), ("W", width)) if length is not None}
    colour: tuple[int | str, ...] = (contract.channels, "H", "W")
    promised = {IMAGE: colour, PREDICTION: colour, **{mask.name: mask.dims for mask in contract.masks}}
    for name, expected in promised.items():
        element = TensorProto.FLOAT if name in (IMAGE, PREDICTION) else TensorProto.BOOL
        if found[name].elem_type != element:
            raise ValueError(f"{name} is not {TensorProto.DataType.Name(element).lower()}")
        # H and W have lengths in a graph for one size, and only names in a graph for all sizes.
        resolved = [d if isinstance(d, int) else _length(d, axes) for d in expected]
        if dims[name][1:] != resolved:
            raise ValueError(f"{name} has shape {dims[name]}; expected {[None, *resolved]}")
    return (height, width) if height is not None and width is not None else None


def _length(expression: str, axes: dict[str, int]) -> int | None:
    """The length of an axis expression such as ``"H/16"``; None if the graph leaves the axis free."""
    axis, _, divisor = expression.partition("/")
    return axes[axis] // int(divisor or 1) if axis in axes else None
