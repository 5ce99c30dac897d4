"""MNN on the CPU: 3x3 convolutions by Winograd's algorithm, which needs fewer multiplications.

The exported graph is converted when the engine is prepared (`mnn_graph`). The passes of a batch, or of a
larger image the windows of a pass (`windows`), are computed side by side, each with its share of the threads:
not all of a pass can be shared by them.
"""

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
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.budget import pass_bytes
from self2self.contract import IMAGE, Contract
from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, ResourceError
from self2self.masks import BoolArray
from self2self.runtime.engine import Engine, FloatArray, first_line, is_installed
from self2self.runtime.mnn_graph import for_mnn
from self2self.runtime.model import Model, read_proto
from self2self.runtime.windows import WHOLE_PIXELS, Staged, Values
from self2self.system import compute_threads, trim_heap
from self2self.workers import Workers

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
_WINDOW_BYTES = 75 * 10**6
_WINDOWED_BYTES_PER_PIXEL = 270
_WINDOWED_BYTES_PER_MASK_ELEMENT = 2.5
"""Of an image that is run in windows: what a thread takes for its own, and what the parts hand on.

Peaks at 256x256, 512x512 and 1024x1024 on two threads, sums and engine included: 156, 373 and 1106 MB for the paper's
network (221, 432 and 1279 by these), 138, 327 and 956 MB for the fast one (203, 364 and 1006), 69, 170 and 444 MB for a
narrow one (180, 269 and 626).
"""


class MnnEngine(Engine):
    """MNN in float32 on the CPU."""

    name = "mnn"
    copy_seconds: float = 0.0

    def __init__(self, model: Model, image: FloatArray) -> None:
        super().__init__(model, image)
        height, width = image.shape[2:]
        self._most = self.useful_batch({"H": height, "W": width})
        self._networks: list[_Network] | None = None
        self._converted: bytes | None = None
        """The whole graph, where it is loaded again for more passes side by side."""
        self._workers = Workers(compute_threads())

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As for every engine; less for an image that is run in windows."""
        if axes["H"] * axes["W"] <= WHOLE_PIXELS:
            return super().pass_bytes(contract, axes)
        kept = _WINDOWED_BYTES_PER_PIXEL * axes["H"] * axes["W"]
        return compute_threads() * _WINDOW_BYTES + kept + pass_bytes(contract, axes, _WINDOWED_BYTES_PER_MASK_ELEMENT)

    @classmethod
    def useful_batch(cls, axes: Mapping[str, int]) -> int:
        """A pass for each thread; in windows one, whose windows are side by side."""
        return compute_threads() if axes["H"] * axes["W"] <= WHOLE_PIXELS else 1

    @classmethod
    def version(cls) -> str:
        """The version of MNN."""
        return f"MNN {_import_mnn().version()}"

    def prepare(self) -> None:
        """Convert the graph and load it."""
        self._networks = self._load_networks(1, compute_threads())

    def _load_networks(self, count: int, threads: int) -> list[_Network]:
        """Networks of so many threads each."""
        proto = read_proto(self.model.path)
        return [self._load_network(proto, threads) for _ in range(count)]

    def _load_network(self, proto: onnx.ModelProto, threads: int) -> _Network:
        opsets = list(proto.opset_import)
        height, width = self.image.shape[2:]
        sessions: list[list[_Session]] = []

        def load(graph: onnx.GraphProto, count: int) -> list[_Session]:
            sessions.append(self._load(graph, opsets, count, threads))
            return sessions[-1]

        try:
            staged = Staged(proto.graph, height, width, load, workers=threads, side_by_side=self._workers.run)
            return _Network(staged, sessions)
        except (ValueError, TypeError) as error:
            raise FileFormatError(
                f"{self.model.path}: the engine mnn cannot read its weights ({first_line(error)}). Use --engine ort."
            ) from error

    def _load(
        self, graph: onnx.GraphProto, opsets: list[onnx.OperatorSetIdProto], count: int, threads: int
    ) -> list[_Session]:
        """`count` of them for `graph`, which share the threads."""
        MNN = _import_mnn()  # noqa: N806 - what the library calls itself
        path = self.model.path
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                source, converted = Path(folder) / "model.onnx", Path(folder) / "model.mnn"
                if self._converted is not None:
                    converted.write_bytes(self._converted)
                else:
                    source.write_bytes(for_mnn(graph, opsets).SerializeToString())
                    printed = _convert(source, converted)
                    if not converted.is_file():
                        raise _not_converted(path, printed)
                    # Such an image is not run in windows, so there is one graph.
                    if self._most > 1:
                        self._converted = converted.read_bytes()
                names = [value.name for value in graph.output]
                config = {"backend": "CPU", "numThread": _share(threads, count), "precision": "high"}
                sessions = []
                for _ in range(count):
                    with _silent():
                        interpreter = MNN.Interpreter(str(converted))
                        interpreter.setSessionMode(_DEFER)
                        session = interpreter.createSession(config)
                    sessions.append(_Session(path, interpreter, session, names))
                return sessions
        except MemoryError as error:
            raise ResourceError(f"out of memory while loading {path}. Close other programs and try again.") from error
        except OSError as error:
            raise ResourceError(
                f"{path}: MNN's copy of the model cannot be written to {tempfile.gettempdir()} ({error.strerror}). "
                "Free some space there, or use --engine ort."
            ) from error

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """The passes of the batch, side by side; the next run may overwrite the result."""
        count = len(next(iter(masks.values())))
        try:
            networks = self._networks_for(count)
            before = sum(network.copy_seconds for network in networks)
            if count == 1:
                # It stays where it was computed, which saves a copy.
                predictions = self._pass(networks[0], masks, 0)
            else:
                predictions = np.empty((count, *self.image.shape[1:]), np.float32)

                def compute(first: int) -> None:
                    for index in range(first, count, len(networks)):
                        predictions[index] = self._pass(networks[first], masks, index)[0]

                self._workers.run(compute, len(networks))
        except MemoryError:
            # Fewer passes at a time get by with fewer networks, which are made when they come.
            self._networks = []
            raise
        self.copy_seconds += (sum(network.copy_seconds for network in networks) - before) / len(networks)
        return predictions

    def _pass(self, network: _Network, masks: Mapping[str, BoolArray], index: int) -> FloatArray:
        inputs: dict[str, NDArray[Any]] = {name: mask[index : index + 1] for name, mask in masks.items()}
        return network.staged.run({IMAGE: self.image, **inputs})

    def _networks_for(self, count: int) -> list[_Network]:
        """Networks for `count` passes; once there are several, they stay, as batches end with a smaller one."""
        if self._networks is None:
            raise RuntimeError("the engine is not prepared")
        wanted = min(count, self._most)
        if wanted > len(self._networks):
            # Before the next are made.
            self._networks.clear()
            self._networks += self._load_networks(wanted, _share(compute_threads(), wanted))
        return self._networks[:wanted]

    def provider(self) -> str:
        """Always the CPU."""
        return "MNN CPU"

    def close(self) -> None:
        """Free the networks and their memory."""
        self._networks = None
        self._converted = None
        self._workers.close()
        trim_heap()


@dataclass(frozen=True, slots=True)
class _Network:
    """What computes one pass at a time.

    Attributes:
        staged: runs its sessions.
        sessions: of every part those that run side by side.
    """

    staged: Staged
    sessions: list[list[_Session]]

    @property
    def copy_seconds(self) -> float:
        """Time that went into copies."""
        copied = sum(sum(session.copy_seconds for session in part) / len(part) for part in self.sessions)
        return copied + self.staged.copy_seconds


class _Session:
    """A loaded graph; called with its inputs, it returns its outputs in memory of its own, until the next call.

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
        with _silent():
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


def _share(threads: int, count: int) -> int:
    """Threads for each of `count` networks that run at the same time."""
    return max(1, threads // count) if count <= _POOLED else 1


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


_ONE_AT_A_TIME = Lock()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what the library prints off stdout, where results go."""
    # Two threads at once could take each other's silence for stdout, and restore that.
    with _ONE_AT_A_TIME:
        sys.stdout.flush()
        saved = os.dup(1)
        try:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 1)
            try:
                yield
            finally:
                # The C library would print what it still holds into our stdout later.
                if sys.platform != "win32":
                    ctypes.CDLL(None).fflush(None)
                os.dup2(saved, 1)
        finally:
            os.close(saved)


def _import_mnn() -> Any:
    if not is_installed("MNN"):
        raise EngineUnavailableError.of(
            "mnn", Obstacle.NOT_INSTALLED, "MNN is not installed", "Install it: pip install MNN."
        )
    try:
        with _silent():
            import MNN
    except (ImportError, OSError) as error:
        raise EngineUnavailableError.of(
            "mnn",
            Obstacle.DOES_NOT_LOAD,
            f"MNN does not load ({first_line(error)})",
            "Install it again: pip install --force-reinstall MNN.",
        ) from error
    return MNN
