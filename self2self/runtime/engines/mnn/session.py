"""A graph in MNN: converted in a process of its own, loaded, and run with inputs that it takes from NumPy."""

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

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, ResourceError, first_line
from self2self.machine.system import trim_heap
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.mnn.graph import for_mnn
from self2self.runtime.engines.registry import is_installed
from self2self.runtime.engines.windows import Values

if TYPE_CHECKING:
    import onnx

_OUT_OF_MEMORY, _NOT_RESIZED = 1, 3
"""Codes of MNN for a session that got no memory, when it ran or before."""
_POOLED = 2
"""So many networks at a time MNN lets have several threads; any other one has a single thread."""
_RESIZE_STATUS = 3
"""Asks whether a session is not ready to run."""
_DEFER = 7
"""Do not lay a session out before the sizes of its inputs are known."""


class Session:
    """A loaded graph; called with its inputs, it returns its outputs in memory of its own.

    That memory holds them until the next call, and goes with the session: reading it later ends the process.

    Attributes:
        copy_seconds: time that went into copying inputs.
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
        """Run it with inputs of any size; masks may be bool.

        Raises:
            MemoryError: MNN got no memory.
            FileFormatError: it cannot run the graph.
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
            self._fail(code)
        return self._outputs

    def _resize(self, tensors: Mapping[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = {}
        with silent():
            for name, shape in shapes.items():
                self._interpreter.resizeTensor(tensors[name], shape)
            self._interpreter.resizeSession(self._session)
        # An integer whose bits the bindings show as a float; only zero stays what it is.
        if self._interpreter.getSessionInfo(self._session, _RESIZE_STATUS):
            self._fail(_NOT_RESIZED)
        tensors = self._interpreter.getSessionInputAll(self._session)
        self._inputs = {name: tensor.getNumpyData() for name, tensor in tensors.items()}
        outputs = self._interpreter.getSessionOutputAll(self._session)
        self._outputs = [outputs[name].getNumpyData() for name in self._names]
        self._shapes = shapes
        # What laying out took, besides the converter before it.
        trim_heap()

    def _fail(self, code: int) -> None:
        if code in (_OUT_OF_MEMORY, _NOT_RESIZED):
            raise MemoryError("MNN could not allocate what a pass needs")
        raise FileFormatError(f"{self._path}: MNN cannot run it (code {code}). Use --engine ort.")


Sessions = list[Session]
"""Of one graph, to be run side by side."""


def share(threads: int, count: int) -> int:
    """Threads for each of `count` networks that run at the same time."""
    return max(1, threads // count) if count <= _POOLED else 1


def convert(graph: onnx.GraphProto, opsets: list[onnx.OperatorSetIdProto], path: Path) -> bytes:
    """`graph`, a part of the model `path`, as MNN's file.

    Raises:
        FileFormatError: MNN does not know all of it.
        ResourceError: no memory, or no space for temporary files.
    """
    with _told(path), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source, converted = Path(folder) / "model.onnx", Path(folder) / "model.mnn"
        source.write_bytes(for_mnn(graph, opsets).SerializeToString())
        printed = _convert(source, converted)
        if not converted.is_file():
            raise _not_converted(path, printed)
        return converted.read_bytes()


def load_sessions(converted: bytes, outputs: list[str], path: Path, count: int, threads: int) -> Sessions:
    """`count` sessions of what `convert` made, with `threads` each.

    Args:
        converted: MNN's file.
        outputs: names of its outputs.
        path: of the model, for messages.
        count: how many.
        threads: of each.

    Raises:
        ResourceError: as for `convert`.
    """
    MNN = import_mnn()  # noqa: N806 - what the library calls itself
    config = {"backend": "CPU", "numThread": threads, "precision": "high"}
    sessions = []
    with _told(path), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "model.mnn"
        file.write_bytes(converted)
        for _ in range(count):
            with silent():
                interpreter = MNN.Interpreter(str(file))
                interpreter.setSessionMode(_DEFER)
                session = interpreter.createSession(config)
            sessions.append(Session(path, interpreter, session, outputs))
    return sessions


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the system, while the model `path` is loaded, as ours."""
    try:
        yield
    except MemoryError as error:
        raise ResourceError(f"out of memory while loading {path}. Close other programs and try again.") from error
    except OSError as error:
        raise ResourceError(
            f"{path}: MNN's copy of the model cannot be written to {tempfile.gettempdir()} ({error.strerror}). "
            "Free some space there, or use --engine ort."
        ) from error


def _convert(source: Path, converted: Path) -> str:
    """Write `converted`, or do not, and return what the converter printed.

    In a process of its own, because a damaged graph may crash it. The module around the compiled converter is left
    alone, because it reports its use over the network.
    """
    program = "import sys, _tools; _tools.mnnconvert(sys.argv)"
    arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(converted), "--bizCode", ""]
    # Without the current folder on the path, whatever is in it.
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # noqa: S603 - ours
    return done.stdout.decode("utf-8", "replace")


def _not_converted(path: Path, printed: str) -> FileFormatError:
    unknown = re.search(r"Not Support: (?:ONNX::)?(\w+)", printed)
    if unknown:
        return FileFormatError(f"{path}: the engine mnn does not know its operator {unknown[1]}. Use --engine ort.")
    return FileFormatError(f"{path}: the engine mnn cannot convert it. Use --engine ort.")


_STDOUT = 1
_ONE_AT_A_TIME = Lock()


@contextmanager
def silent() -> Iterator[None]:
    """Keep what the library prints off stdout, where results go."""
    # Two threads at once could take each other's silence for stdout, and restore that.
    with _ONE_AT_A_TIME:
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
                # The C library would print what it still holds into our stdout later.
                if sys.platform != "win32":
                    ctypes.CDLL(None).fflush(None)
                os.dup2(saved, _STDOUT)
        finally:
            os.close(saved)


def import_mnn() -> Any:
    """The library.

    Raises:
        EngineUnavailableError: it is not installed, or does not load.
    """
    if not is_installed("MNN"):
        raise EngineUnavailableError.of(
            "mnn", Obstacle.NOT_INSTALLED, "MNN is not installed", "Install it: pip install MNN."
        )
    try:
        with silent():
            import MNN
    except (ImportError, OSError) as error:
        raise EngineUnavailableError.of(
            "mnn",
            Obstacle.DOES_NOT_LOAD,
            f"MNN does not load ({first_line(error)})",
            "Install it again: pip install --force-reinstall MNN.",
        ) from error
    return MNN
