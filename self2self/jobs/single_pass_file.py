"""The single pass of a fit, inside the file of its model with masks.

A run folder has files of its own for the single pass. A model that leaves its run folder (`arrays.Model`) takes the
weights along, in the metadata of the ONNX file, where other programs pass them over::

    self2self.single_pass    {"transferred": true, "weights": "..."}    the content of plain.safetensors, in base64
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from self2self.errors import FileFormatError, shown
from self2self.machine.files import scratch_folder
from self2self.model.contract import METADATA_PREFIX
from self2self.runtime.model import Model, read_proto
from self2self.train.run_folder import Run

if TYPE_CHECKING:
    import onnx

    from self2self.train.single_pass import BothWeights

KEY = METADATA_PREFIX + "single_pass"


@dataclass(frozen=True, slots=True)
class SinglePassInFile:
    """What a file holds of the single pass of its fit.

    Attributes:
        weights: content of ``plain.safetensors``.
        transferred: as in `train.single_pass.BothWeights`.
    """

    weights: bytes
    transferred: bool

    @classmethod
    def of_run(cls, run: Run) -> Self | None:
        """The single pass of a run folder; None if it has none, or is no whole fit.

        Raises:
            Self2SelfError: its configuration cannot be read.
        """
        from self2self.train.session import shipped_start_weights

        if not (run.plain_path.is_file() and run.config_path.is_file()):
            return None
        return cls(run.plain_path.read_bytes(), shipped_start_weights(run.config()) is not None)

    @classmethod
    def of_file(cls, path: Path) -> Self | None:
        """What the ONNX file `path` holds; None for nothing.

        Raises:
            InputError, FileFormatError: it cannot be read.
        """
        entry = next((entry.value for entry in read_proto(path).metadata_props if entry.key == KEY), None)
        if entry is None:
            return None
        try:
            values = json.loads(entry)
            return cls(base64.b64decode(values["weights"], validate=True), bool(values["transferred"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise FileFormatError(
                f"{path}: its single pass is damaged ({shown(str(error))}). Save it again."
            ) from error

    def added_to(self, proto: onnx.ModelProto) -> bytes:
        """The content of the file of `proto` with this single pass."""
        from self2self.export.to_onnx import serialise

        values = {"transferred": self.transferred, "weights": base64.b64encode(self.weights).decode()}
        proto.metadata_props.add(key=KEY, value=json.dumps(values))
        return serialise(proto)

    def unpack(self, run: Run) -> None:
        """Write the weights and their plain model into the folder of `run`, as a fit does.

        Raises:
            FileFormatError: the weights are damaged.
        """
        run.plain_path.write_bytes(self.weights)
        run.plain_onnx_path_for("fp32").write_bytes(_plain_model(self.weights))

    def with_masked(self, model: Model, run: Run) -> BothWeights:
        """The weights of `model`, which is in the same file, beside those of the single pass in the folder of `run`.

        Raises:
            FileFormatError: they are damaged, or of another fit.
        """
        from self2self.runtime.engines.torch_cpu.reference import network_of
        from self2self.train.checkpoint import load_weights
        from self2self.train.single_pass import BothWeights

        single, recipe, contract = load_weights(run.plain_path)
        if contract != model.contract.as_plain():
            raise FileFormatError(f"{model.path}: its single pass is of another fit. Save it again.")
        return BothWeights(dict(network_of(model).state_dict()), single, recipe, self.transferred)


@lru_cache(maxsize=4)
def _plain_model(weights: bytes) -> bytes:
    """The plain model of the weights in ``plain.safetensors``, which the fit has verified when it made them.

    Raises:
        FileFormatError: they are damaged.
    """
    from self2self.export.plain import build_plain_model
    from self2self.export.to_onnx import serialise
    from self2self.train.checkpoint import load_network

    with scratch_folder() as folder:
        path = Run(folder).plain_path
        path.write_bytes(weights)
        return serialise(build_plain_model(*load_network(path)))
