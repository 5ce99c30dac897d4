"""Imports OpenVINO without its telemetry, compiles a graph for the CPU, and runs it on NumPy arrays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, first_line, shown
from self2self.machine.system import compute_threads
from self2self.runtime.engines.graphs import Runner, Values
from self2self.runtime.engines.registry import is_installed

if TYPE_CHECKING:
    import onnx

_TELEMETRY = "openvino_telemetry"


class Session:
    """A compiled graph; a call with its inputs returns its outputs in memory of the session."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        # OpenVINO joins values that are equal, and an input then has the names of all of them.
        self._inputs = [port.get_names() for port in compiled.inputs]
        self._outputs = len(compiled.outputs)

    def __call__(self, values: Values) -> list[NDArray[Any]]:
        """See `graphs.Runner`."""
        named = [next(name for name in names if name in values) for names in self._inputs]
        given = {index: np.ascontiguousarray(values[name]) for index, name in enumerate(named)}
        try:
            self._request.infer(given, share_inputs=True)
        except Exception as error:
            # OpenVINO raises RuntimeError for everything.
            if is_out_of_memory(error):
                raise MemoryError(reason_of(error)) from error
            raise ValueError(reason_of(error)) from error
        return [self._request.get_output_tensor(index).data for index in range(self._outputs)]


def compile_graph(data: bytes) -> Session:
    """Compile an ONNX model in float32 for the CPU, with the threads of this process.

    Raises:
        MemoryError: memory ran out.
        ValueError: OpenVINO cannot compile the graph.
    """
    openvino = import_openvino()
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": compute_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    try:
        return Session(core.compile_model(core.read_model(data), "CPU", settings))
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(reason_of(error)) from error
        raise ValueError(reason_of(error)) from error


def load_graph(proto: onnx.ModelProto, path: Path) -> Runner:
    """See `graphs.LoadGraph`."""
    try:
        return compile_graph(proto.SerializeToString())
    except ValueError as error:
        raise FileFormatError(f"{path}: OpenVINO cannot load it ({error}). Use the engine ort.") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of OpenVINO says that memory ran out."""
    return isinstance(error, MemoryError) or "bad_alloc" in str(error) or "allocat" in str(error).lower()


def reason_of(error: Exception) -> str:
    """The line of an exception of OpenVINO that says what is wrong; the others name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return shown((told or lines or [first_line(error)])[0])


def import_openvino() -> Any:
    """Import OpenVINO.

    Raises:
        EngineUnavailableError: OpenVINO is not installed, or does not load.
    """
    if not is_installed("openvino"):
        raise EngineUnavailableError.of(
            "openvino", Obstacle.NOT_INSTALLED, "OpenVINO is not installed", "Install it: pip install openvino."
        )
    try:
        with _without_telemetry():
            import openvino
    except (ImportError, OSError) as error:
        raise EngineUnavailableError.of(
            "openvino",
            Obstacle.DOES_NOT_LOAD,
            f"OpenVINO does not load ({first_line(error)})",
            "Install it again: pip install --force-reinstall openvino.",
        ) from error
    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide the package that reports each import of OpenVINO over the network, as if it were not installed."""
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
