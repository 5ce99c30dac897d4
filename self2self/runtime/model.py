"""Reads a model file, and checks that its graph and weights are what its contract says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from self2self.errors import FileFormatError, InputError, UsageError, shown
from self2self.model.contract import Contract
from self2self.model.graph import damaged_weights
from self2self.model.plain import core_model
from self2self.runtime.graph_check import check_graph, infinite_weights

if TYPE_CHECKING:
    import onnx


_EXPORT_AGAIN = "Export it again: self2self export --force"
LARGEST_FILE_BYTES = 64 * 2**20
"""Largest model file that is read. The widest network of a recipe takes 4 MB; what a parser makes of a hostile file can
take a hundred times the memory of the file."""


@dataclass(frozen=True, slots=True)
class Model:
    """An exported model; its contract has been checked against its graph.

    Attributes:
        path: of the file; an engine reads it again.
        contract: the description that the file carries.
        size: the only (height, width) that engines accept; None for any.
    """

    path: Path
    contract: Contract
    size: tuple[int, int] | None = None

    def engine_proto(self) -> onnx.ModelProto:
        """Read the model that engines run: all of the file, or of a plain model the core (`model.plain`).

        Raises:
            InputError, FileFormatError: as for `load_model`.
        """
        proto = read_proto(self.path)
        return core_model(proto) if self.contract.plain else proto


def load_model(path: str | os.PathLike[str]) -> Model:
    """Open an exported `.onnx` file.

    Raises:
        InputError: the file is missing or cannot be read.
        FileFormatError: the file is not ONNX, damaged, not a self2self model, of another schema version, or holds
            anything that the exporter would not have written (`graph_check`).
    """
    path = Path(path)
    proto = read_proto(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if len(metadata) != len(proto.metadata_props):
        raise FileFormatError(f"{path}: its metadata are damaged (two of one key). {_EXPORT_AGAIN}")
    contract = Contract.from_metadata(metadata, str(path))
    try:
        size = check_graph(proto, contract)
        damaged = damaged_weights(proto)
    except (KeyError, IndexError, ValueError, UsageError) as error:
        raise FileFormatError(
            f"{path}: its graph is not what its metadata promise ({shown(str(error))}). {_EXPORT_AGAIN}"
        ) from error
    if damaged:
        raise FileFormatError(
            f"{path}: is damaged, or another program changed its weights ({shown(*damaged[:3])}). {_EXPORT_AGAIN}"
        )
    if infinite := infinite_weights(proto.graph):
        raise FileFormatError(
            f"{path}: has weights that are not finite numbers ({', '.join(infinite[:3])}), so the file is damaged or "
            "the fit diverged. Fit again: self2self fit IMAGE --force"
        )
    return Model(path, contract, size)


def read_proto(
    path: Path,
    largest_bytes: int = LARGEST_FILE_BYTES,
    again: str = _EXPORT_AGAIN,
    make: str = "self2self fit IMAGE, then: self2self export",
) -> onnx.ModelProto:
    """Parse an ONNX file.

    Args:
        path: of the file.
        largest_bytes: size of the largest file that is read.
        again: sentence that says how to replace a damaged file.
        make: how to make a model where there is none.

    Raises:
        InputError, FileFormatError: as for `load_model`.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected an exported .onnx file.")
    try:
        if path.stat().st_size > largest_bytes:
            raise FileFormatError(
                f"{path}: has {path.stat().st_size / 1e6:.0f} MB; a model has at most {largest_bytes / 1e6:.0f}. "
                f"{again}"
            )
        # onnx.load would choose the parser by the file's suffix and follow references to other files.
        proto = onnx.load_model_from_string(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such model. Make one with: {make}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (DecodeError, ValueError) as error:
        raise _damaged(path, again) from error
    if not proto.graph.node:
        raise _damaged(path, again)
    return proto


def _damaged(path: Path, again: str) -> FileFormatError:
    return FileFormatError(f"{path}: is not an ONNX file or is damaged. {again}")
