"""Runs a model with OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

from self2self.errors import FileFormatError, typed
from self2self.model.contract import IMAGE
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.openvino.session import Session, compile_graph, import_openvino


class OpenVinoEngine(Engine):
    """OpenVINO in float32 on the CPU."""

    name = "openvino"
    runs_plain = True
    # OpenVINO reads NumPy arrays in place, and its results are used in place.
    copy_seconds: float = 0.0
    _session: Session | None = None

    @classmethod
    def version(cls) -> str:
        """OpenVINO's version."""
        version: str = import_openvino().__version__
        return f"OpenVINO {version.partition('-')[0]}"

    def prepare(self) -> None:
        """Compile the graph."""
        try:
            self._session = compile_graph(self.model.engine_proto().SerializeToString())
        except ValueError as error:
            raise FileFormatError(
                f"{self.model.path}: OpenVINO cannot load it ({error}). Use {typed('--engine ort')}, or "
                "export it again: self2self export --force"
            ) from error

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """One run of the whole batch; the next call overwrites the result."""
        if self._session is None:
            raise RuntimeError("the engine is not prepared")
        try:
            return self._session({IMAGE: self.image, **masks})[0]
        except ValueError as error:
            raise FileFormatError(
                f"{self.model.path}: OpenVINO cannot run it ({error}). Use {typed('--engine ort')}, or "
                "export it again: self2self export --force"
            ) from error

    def provider(self) -> str:
        """OpenVINO on the CPU, always."""
        return "OpenVINO CPU"

    def close(self) -> None:
        """Free the compiled graph."""
        self._session = None
