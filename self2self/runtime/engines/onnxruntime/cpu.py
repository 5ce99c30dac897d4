"""Runs a model with ONNX Runtime on the CPU, and imports ONNX Runtime for its other engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, ResourceError, first_line, shown, typed
from self2self.machine.onnxruntime_import import quiet_onnxruntime_import
from self2self.machine.system import compute_threads
from self2self.model.contract import IMAGE, PREDICTION
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.gpu import is_distribution
from self2self.runtime.engines.graphs import Runner, Values
from self2self.runtime.engines.registry import is_installed

if TYPE_CHECKING:
    import onnx

ERRORS_ONLY = 3
"""Severity level from which ONNX Runtime writes messages: errors and fatal errors."""
FATAL_ONLY = 4
"""The same for fatal errors alone: where every other failure is raised, and told in one line."""
PACKAGES = ("onnxruntime", "onnxruntime-gpu")
"""Names of ONNX Runtime's packages; each of the two overwrites the files of the other."""


class OrtEngine(Engine):
    """ONNX Runtime with its CPU provider."""

    name = "ort"
    runs_plain = True
    # ONNX Runtime reads and writes NumPy arrays in place, so there are no copies.
    copy_seconds: float = 0.0
    _session: Any = None

    @classmethod
    def version(cls) -> str:
        """ONNX Runtime's version."""
        return f"ONNX Runtime {import_onnxruntime(cls.name).__version__}"

    def prepare(self) -> None:
        """Create the session."""
        if self.model.contract.precision == "bf16":
            raise FileFormatError(
                f"{self.model.path}: ONNX Runtime does not run bf16 on a CPU. Export another: self2self export "
                "--precision fp16"
            )
        ort = import_onnxruntime(self.name)
        options = session_options(ort)
        # With a planned arena a pass takes 18 bytes for each mask element, without one 10, at the same speed.
        options.enable_mem_pattern = False
        try:
            self._session = ort.InferenceSession(self._source(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # ONNX Runtime's exceptions share no base class of their own.
            if is_out_of_memory(error):
                raise ResourceError(
                    f"out of memory while loading {self.model.path}. Close other programs and try again."
                ) from error
            raise FileFormatError(
                f"{self.model.path}: ONNX Runtime cannot load it ({first_line(error)}). "
                "Export it again: self2self export --force"
            ) from error

    def _source(self) -> str | bytes:
        """The file, or of a plain model the bytes of its core."""
        if not self.model.contract.plain:
            return str(self.model.path)
        core: bytes = self.model.engine_proto().SerializeToString()
        return core

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """One session run; the result is a new array."""
        try:
            predictions: FloatArray = self._session.run([PREDICTION], {IMAGE: self.image, **masks})[0]
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(first_line(error)) from error
            # InvalidArgument is a wrong input, a bug of ours, and passes through.
            if type(error).__name__ in ("Fail", "RuntimeException"):
                raise FileFormatError(
                    f"{self.model.path}: ONNX Runtime cannot run it ({first_line(error)}). "
                    "Export it again: self2self export --force"
                ) from error
            raise
        return predictions

    def provider(self) -> str:
        """The provider that the session really uses."""
        return str(self._session.get_providers()[0])

    def close(self) -> None:
        """Free the session."""
        self._session = None


class Session:
    """A session of ONNX Runtime as a `graphs.Runner`; its results are new arrays."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = [entry.name for entry in session.get_inputs()]

    def __call__(self, values: Values) -> list[NDArray[Any]]:
        """See `graphs.Runner`."""
        try:
            results: list[NDArray[Any]] = self._session.run(None, {name: values[name] for name in self._inputs})
        except Exception as error:
            # ONNX Runtime's exceptions share no base class of their own.
            if is_out_of_memory(error):
                raise MemoryError(first_line(error)) from error
            raise ValueError(shown(first_line(error))) from error
        return results


def load_graph(proto: onnx.ModelProto, path: Path) -> Runner:
    """See `graphs.LoadGraph`."""
    ort = import_onnxruntime("ort")
    try:
        # With its fallback, a failure would print to stdout and be tried again.
        session = ort.InferenceSession(
            proto.SerializeToString(),
            session_options(ort, FATAL_ONLY),
            providers=["CPUExecutionProvider"],
            enable_fallback=0,
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(first_line(error)) from error
        raise FileFormatError(
            f"{path}: ONNX Runtime cannot load it ({shown(first_line(error))}). Export it again."
        ) from error
    return Session(session)


BOTH_INSTALLED = "both onnxruntime and onnxruntime-gpu are installed"
REINSTALL = "Type: pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu."


def installed_packages() -> list[str]:
    """The installed ones of `PACKAGES`; the first of them where none is, as with a build from source."""
    return [name for name in PACKAGES if is_distribution(name)] or [PACKAGES[0]]


def import_onnxruntime(engine: str) -> Any:
    """Import ONNX Runtime, for the engine called `engine`, and suppress its notes on absent GPUs.

    Raises:
        EngineUnavailableError: ONNX Runtime is not installed, or does not load.
    """
    if not is_installed("onnxruntime"):
        raise EngineUnavailableError.of(
            engine,
            Obstacle.NOT_INSTALLED,
            "ONNX Runtime is not installed",
            "Install it: pip install onnxruntime.",
            instead=f"Or use {typed('--engine torch')}.",
        )
    try:
        with quiet_onnxruntime_import():
            import onnxruntime as ort
    except (ImportError, OSError) as error:
        installed = installed_packages()
        if len(installed) > 1:
            cause, reason = Obstacle.BOTH_PACKAGES, f"{BOTH_INSTALLED}, and what is left of them does not load"
        else:
            cause, reason = Obstacle.DOES_NOT_LOAD, f"ONNX Runtime does not load ({first_line(error)})"
        fix = REINSTALL if len(installed) > 1 else f"Install it again: pip install --force-reinstall {installed[0]}."
        raise EngineUnavailableError.of(
            engine, cause, reason, fix, instead=f"Or use {typed('--engine torch')}."
        ) from error
    ort.set_default_logger_severity(ERRORS_ONLY)
    return ort


def session_options(ort: Any, severity: int = ERRORS_ONLY) -> Any:
    """Options of a session on the CPU that prints from a severity level on, with the threads of this process."""
    options = ort.SessionOptions()
    options.log_severity_level = severity
    options.intra_op_num_threads = compute_threads()
    options.inter_op_num_threads = 1
    return options


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of ONNX Runtime on the CPU says that memory ran out."""
    # ONNX Runtime writes "std::bad_alloc" or "Failed to allocate memory for requested buffer of size ...".
    return isinstance(error, MemoryError) or "alloc" in str(error).lower()
