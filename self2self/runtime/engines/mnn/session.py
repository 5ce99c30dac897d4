"""Converts a graph to MNN in a process of its own, loads it, and runs it on NumPy arrays."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, ResourceError, first_line, typed
from self2self.machine.files import scratch_folder
from self2self.machine.system import compute_threads, trim_heap
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.graphs import Runner, Values, checked
from self2self.runtime.engines.mnn.graph import for_mnn
from self2self.runtime.engines.registry import is_installed

if TYPE_CHECKING:
    import onnx

_OUT_OF_MEMORY, _NOT_RESIZED = 1, 3
"""MNN's codes for a session that got no memory: during a run, and before one."""
_LARGEST_MULTITHREADED_COUNT = 2
"""Number of networks at a time that MNN lets use several threads; every further network uses a single thread."""
_RESIZE_STATUS = 3
"""MNN's code of the question whether a session is not ready to run."""
_DEFER = 7
"""MNN's mode that lays a session out only when the sizes of its inputs are known."""


class Session:
    """A loaded graph; a call with its inputs returns its outputs in memory of the session.

    The outputs are valid until the next call. The memory is freed with the session: reading it later crashes the
    process.

    Attributes:
        copy_seconds: seconds that went into copying inputs.
    """

    def __init__(self, path: Path, interpreter: Any, session: Any, outputs: list[str]) -> None:
        self.copy_seconds = 0.0
        self._path = path
        self._interpreter = interpreter
        self._session = session
        self._names = outputs
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._inputs: dict[str, NDArray[Any]] = {}
        self._outputs: list[FloatArray] = []

    def __call__(self, values: Values) -> list[FloatArray]:
        """Run the graph on inputs of any size; masks may be bool.

        Raises:
            MemoryError: MNN got no memory.
            FileFormatError: MNN cannot run the graph.
        """
        tensors = self._interpreter.getSessionInputAll(self._session)
        shapes = {name: values[name].shape for name in tensors}
        if shapes != self._shapes:
            self._resize(tensors, shapes)
        start = time.perf_counter()
        for name, memory in self._inputs.items():
            value = values[name]
            np.copyto(memory, value.view(np.uint8) if value.dtype == np.bool_ else value)
        self.copy_seconds += time.perf_counter() - start
        code = self._interpreter.runSession(self._session)
        if code:
            raise self._run_error(code)
        return self._outputs

    def _resize(self, tensors: Mapping[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = {}
        with silenced_stdout():
            for name, shape in shapes.items():
                self._interpreter.resizeTensor(tensors[name], shape)
            self._interpreter.resizeSession(self._session)
        # MNN gives an integer, whose bits the bindings show as a float; only zero is the same in both.
        if self._interpreter.getSessionInfo(self._session, _RESIZE_STATUS):
            raise self._run_error(_NOT_RESIZED)
        tensors = self._interpreter.getSessionInputAll(self._session)
        self._inputs = {name: tensor.getNumpyData() for name, tensor in tensors.items()}
        outputs = self._interpreter.getSessionOutputAll(self._session)
        self._outputs = [outputs[name].getNumpyData() for name in self._names]
        self._shapes = shapes
        # This returns memory of the layout, and of the converter before it, to the system.
        trim_heap()

    def _run_error(self, code: int) -> Exception:
        """The error for a code that MNN returned."""
        if code in (_OUT_OF_MEMORY, _NOT_RESIZED):
            return MemoryError("MNN could not allocate what a pass needs")
        return FileFormatError(f"{self._path}: MNN cannot run it (code {code}). Use {typed('--engine ort')}.")


Sessions = list[Session]
"""Sessions of one graph, which may run at the same time."""


def threads_per_network(threads: int, count: int) -> int:
    """Threads for each of `count` networks that run at the same time and share `threads`."""
    return max(1, threads // count) if count <= _LARGEST_MULTITHREADED_COUNT else 1


def convert(graph: onnx.GraphProto, opsets: list[onnx.OperatorSetIdProto], path: Path) -> bytes:
    """The bytes of MNN's file for `graph`, which is a part of the model `path`.

    Raises:
        FileFormatError: MNN does not know an operator, or cannot convert the graph.
        ResourceError: no memory, or no space for temporary files.
    """
    with _system_errors_explained(path), scratch_folder() as folder:
        source, converted = folder / "model.onnx", folder / "model.mnn"
        source.write_bytes(for_mnn(graph, opsets).SerializeToString())
        printed = _convert(source, converted)
        if not converted.is_file():
            raise _not_converted(path, printed)
        return converted.read_bytes()


def load_sessions(converted: bytes, outputs: list[str], path: Path, count: int, threads: int) -> Sessions:
    """Load `count` sessions of a graph that `convert` made.

    Args:
        converted: the bytes of MNN's file.
        outputs: names of the graph's outputs.
        path: of the model, for messages.
        count: number of sessions.
        threads: threads of each session.

    Raises:
        ResourceError: as for `convert`.
    """
    MNN = import_mnn()  # noqa: N806 - the library's own name
    config = {"backend": "CPU", "numThread": threads, "precision": "high"}
    sessions = []
    with _system_errors_explained(path), scratch_folder() as folder:
        file = folder / "model.mnn"
        file.write_bytes(converted)
        for _ in range(count):
            with silenced_stdout():
                interpreter = MNN.Interpreter(str(file))
                interpreter.setSessionMode(_DEFER)
                session = interpreter.createSession(config)
            sessions.append(Session(path, interpreter, session, outputs))
    return sessions


_RECURRENT = {"LSTM", "GRU", "RNN"}


def load_graph(proto: onnx.ModelProto, path: Path) -> Runner:
    """See `graphs.LoadGraph`; float32 alone, no recurrent layers, and no convolutions of volumes.

    MNN converts no LSTM, and computes 3-D convolutions wrongly.
    """
    import_mnn()
    graph = proto.graph
    if problem := _not_for_mnn(graph):
        raise FileFormatError(f"{path}: the engine mnn takes no {problem}. Use the engine ort.")
    converted = convert(graph, list(proto.opset_import), path)
    outputs = [value.name for value in graph.output]
    (session,) = load_sessions(converted, outputs, path, 1, compute_threads())
    return checked(session, "mnn", proto, path)


def _not_for_mnn(graph: onnx.GraphProto) -> str:
    """What of `graph` MNN does not take; empty if nothing."""
    from onnx import TensorProto

    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in _RECURRENT:
            return f"recurrent layers ({node.op_type})"
        kernels = [len(entry.ints) for entry in node.attribute if entry.name == "kernel_shape"]
        if 3 in kernels or ("Conv" in node.op_type and ranks.get(node.input[1]) == 5):
            return f"layers over volumes ({node.op_type} in three dimensions)"
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        if kind not in (TensorProto.FLOAT, TensorProto.BOOL) or (kind == TensorProto.BOOL and value in graph.output):
            return f"{TensorProto.DataType.Name(kind).lower()} values ({value.name})"
    return ""


@contextmanager
def _system_errors_explained(path: Path) -> Iterator[None]:
    """Convert errors of the system into ours, with a remedy, while the model `path` is loaded."""
    try:
        yield
    except MemoryError as error:
        raise ResourceError(f"out of memory while loading {path}. Close other programs and try again.") from error
    except OSError as error:
        raise ResourceError(
            f"{path}: MNN's copy of the model cannot be written to {tempfile.gettempdir()} ({error.strerror}). "
            f"Free some space there, or use {typed('--engine ort')}."
        ) from error


def _convert(source: Path, converted: Path) -> str:
    """Try to write `converted`, and return the converter's output.

    The converter runs in a process of its own, because a damaged graph may crash it. It is the compiled module: the
    Python module around it reports its use over the network.
    """
    program = "import sys, _tools; _tools.mnnconvert(sys.argv)"
    arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(converted), "--bizCode", ""]
    # -P keeps the current folder, and any modules in it, off the path.
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # noqa: S603 - ours
    return done.stdout.decode("utf-8", "replace")


def _not_converted(path: Path, printed: str) -> FileFormatError:
    unknown = re.search(r"Not Support: (?:ONNX::)?(\w+)", printed)
    if unknown:
        return FileFormatError(
            f"{path}: the engine mnn does not know its operator {unknown[1]}. Use {typed('--engine ort')}."
        )
    return FileFormatError(f"{path}: the engine mnn cannot convert it. Use {typed('--engine ort')}.")


_STDOUT = 1
_STDOUT_LOCK = Lock()


@contextmanager
def silenced_stdout() -> Iterator[None]:
    """Keep the library's output off stdout, which is for results."""
    # Without the lock, a thread could save the null device of another thread as stdout, and restore that.
    with _STDOUT_LOCK:
        if sys.stdout is not None:
            sys.stdout.flush()
        try:
            saved = os.dup(_STDOUT)
        except OSError:
            # The process was started without a stdout.
            yield
            return
        try:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), _STDOUT)
            try:
                yield
            finally:
                # Otherwise the C library would print its buffer into our stdout later.
                if sys.platform != "win32":
                    ctypes.CDLL(None).fflush(None)
                os.dup2(saved, _STDOUT)
        finally:
            os.close(saved)


def import_mnn() -> Any:
    """Import MNN.

    Raises:
        EngineUnavailableError: MNN is not installed, or does not load.
    """
    if not is_installed("MNN"):
        raise EngineUnavailableError.of(
            "mnn", Obstacle.NOT_INSTALLED, "MNN is not installed", "Install it: pip install MNN."
        )
    try:
        with silenced_stdout():
            import MNN
    except (ImportError, OSError) as error:
        raise EngineUnavailableError.of(
            "mnn",
            Obstacle.DOES_NOT_LOAD,
            f"MNN does not load ({first_line(error)})",
            "Install it again: pip install --force-reinstall MNN.",
        ) from error
    return MNN
