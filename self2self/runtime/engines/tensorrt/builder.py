"""Builds engines of TensorRT and TensorRT-RTX ahead of time, with one code path for both.

Both libraries have the same builder, parser and runtime under different module names. The network is strongly typed, so
the types in the ONNX file decide the precision. TF32 is switched off, because it would round the inputs of a float32
engine to 10 bits. TensorRT measures kernels, so it builds on the GPU that will run the engine. TensorRT-RTX compiles
kernels at the first run, so it builds on any x86-64 machine.

`cache` keeps the engines on disk.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from self2self.errors import (
    EngineUnavailableError,
    FileFormatError,
    Obstacle,
    UsageError,
    first_line,
    first_line_of,
    typed,
)
from self2self.machine.nvidia_libraries import explain
from self2self.runtime.engines.profiles import Shape


@dataclass(frozen=True, slots=True)
class Library:
    """One of the two libraries.

    Attributes:
        engine: name of its engine, as in `--engine`.
        module: name of its Python module.
        title: name of the library in messages.
        package: name of the package that pip installs.
        builds_without_gpu: whether it can build an engine on a machine without the GPU that will run it.
    """

    engine: str
    module: str
    title: str
    package: str
    builds_without_gpu: bool

    def load(self) -> Any:
        """Import the module.

        Raises:
            EngineUnavailableError: the library is not installed or does not load.
        """
        try:
            return import_module(self.module)
        except ModuleNotFoundError as error:
            # The package may be installed while a module that it imports is missing.
            absent = error.name == self.module
            raise EngineUnavailableError.of(
                self.engine,
                Obstacle.NOT_INSTALLED if absent else Obstacle.LIBRARY_MISSING,
                f"{self.title} " + ("is not installed" if absent else f"does not load ({error})"),
                f"Install it: pip install {self.package}.",
                instead=f"Or use {typed('--engine ort')}.",
            ) from error
        except (ImportError, OSError, RuntimeError) as error:
            known = explain(str(error), self.title)
            raise EngineUnavailableError.of(
                self.engine,
                known.cause if known else Obstacle.DOES_NOT_LOAD,
                known.reason if known else f"{self.title} does not load ({first_line(error)})",
                f"Type: export LD_LIBRARY_PATH={known.folder}."
                if known and known.folder
                else f"Install it again: pip install --force-reinstall {self.package}.",
                instead=f"Or use {typed('--engine ort')}.",
            ) from error


TENSORRT = Library("trt", "tensorrt", "TensorRT", "tensorrt", builds_without_gpu=False)
TENSORRT_RTX = Library("trt-rtx", "tensorrt_rtx", "TensorRT-RTX", "tensorrt-rtx", builds_without_gpu=True)
LIBRARIES = {library.engine: library for library in (TENSORRT, TENSORRT_RTX)}


@dataclass(slots=True)
class Parsed:
    """A parsed network, with the objects that have to live as long as it does.

    Attributes:
        trt: the library's module.
        builder, network, parser: objects of the library; the parser owns the network's weights.
    """

    trt: Any
    builder: Any
    network: Any
    parser: Any


@dataclass(frozen=True, slots=True)
class Built:
    """An engine that was just built.

    Attributes:
        data: the serialised engine.
        layer_count: layers of the network before the library fused them.
        seconds: duration of parsing and building.
    """

    data: bytes
    layer_count: int
    seconds: float


def parse(library: Library, data: bytes, source: str) -> Parsed:
    """Parse an ONNX file into a strongly typed network.

    Args:
        library: the library that parses the file.
        data: bytes of the ONNX file.
        source: name of the file in messages.

    Raises:
        EngineUnavailableError: the library is missing, or does not start on this machine.
        FileFormatError: the library cannot read the graph.
    """
    trt = library.load()
    try:
        builder = trt.Builder(logger_of(trt))
        network = builder.create_network(_strongly_typed(trt))
        parser = trt.OnnxParser(network, logger_of(trt))
    except (RuntimeError, TypeError) as error:
        # Without a GPU, TensorRT's constructors return null, which the bindings convert to a TypeError.
        title, reason = f"{library.title} {trt.__version__}", last_error(trt) or first_line(error)
        known = explain(reason, title)
        raise EngineUnavailableError.of(
            library.engine,
            known.cause if known else Obstacle.OTHER,
            known.reason if known else f"{title} does not start ({reason})",
            "Update the NVIDIA driver." if known and known.cause == Obstacle.DRIVER_TOO_OLD else "",
        ) from error
    if not parser.parse(data):
        reason = parser.get_error(0).desc() if parser.num_errors else last_error(trt)
        raise FileFormatError(
            f"{source}: {library.title} {trt.__version__} cannot read its graph ({first_line_of(reason)}). "
            f"Use {typed('--engine ort')}, or export it again: self2self export --force"
        )
    return Parsed(trt, builder, network, parser)


def build(
    library: Library,
    data: bytes,
    shapes: Mapping[str, tuple[Shape, Shape, Shape]],
    *,
    source: str,
    capabilities: tuple[str, ...] = (),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Built:
    """Build an engine from an ONNX file.

    Args:
        library: the library that builds the engine.
        data: bytes of the ONNX file.
        shapes: smallest, optimal and largest shape of every input.
        source: name of the file in messages.
        capabilities: compute capabilities that a TensorRT-RTX engine is for, such as ``"8.6"``; empty for all from 8.0
            up.
        on_progress: called with the name of a phase, the number of its finished steps and of all its steps, from
            threads of the library; not called by a library without progress monitors.

    Raises:
        UsageError: the library cannot build for one of `capabilities`.
        EngineUnavailableError: the library is missing or cannot build this network.
        FileFormatError: the library cannot read the graph.
    """
    start = time.perf_counter()
    parsed = parse(library, data, source)
    trt, builder = parsed.trt, parsed.builder
    config = builder.create_builder_config()
    # The monitor has to live as long as the builder.
    monitor = None if on_progress is None else monitor_of(trt, on_progress)
    if monitor is not None:
        config.progress_monitor = monitor
    tf32 = getattr(trt.BuilderFlag, "TF32", None)
    if tf32 is not None:
        config.clear_flag(tf32)
    if capabilities:
        members = capability_members(library, trt, capabilities)
        config.num_compute_capabilities = len(members)
        for index, member in enumerate(members):
            config.set_compute_capability(member, index)
    optimisation = builder.create_optimization_profile()
    for name, three in shapes.items():
        optimisation.set_shape(name, *three)
    if config.add_optimization_profile(optimisation) < 0:
        raise EngineUnavailableError(
            f"engine {library.engine}: {library.title} {trt.__version__} refuses the shapes of {source} "
            f"({last_error(trt)}). Use {typed('--engine ort')}."
        )
    serialised = builder.build_serialized_network(parsed.network, config)
    if monitor is not None and monitor.raised is not None:
        raise monitor.raised
    if serialised is None:
        raise EngineUnavailableError(
            f"engine {library.engine}: {library.title} {trt.__version__} cannot build an engine from {source} "
            f"({last_error(trt) or 'no reason given'}). Use {typed('--engine ort')}."
        )
    return Built(bytes(serialised), parsed.network.num_layers, time.perf_counter() - start)


def capability_members(library: Library, trt: Any, capabilities: tuple[str, ...]) -> list[Any]:
    """The library's constants for compute capabilities such as ``"8.6"``.

    Raises:
        UsageError: the library has no constant for one of them, or no such constants at all.
    """
    known = named_capabilities(trt)
    if not known:
        raise UsageError(
            f"{library.title} builds for the GPU of this machine alone; a compute capability cannot be given. "
            f"Use {typed('--engine trt-rtx')} to build for another GPU."
        )
    for capability in capabilities:
        if capability not in known:
            raise UsageError(
                f"{library.title} {trt.__version__} has no compute capability {capability}; "
                f"expected some of: {', '.join(known)}."
            )
    return [known[capability] for capability in capabilities]


def named_capabilities(trt: Any) -> dict[str, Any]:
    """Compute capabilities that engines can be built for, from ``"8.6"`` to the constant; empty for TensorRT."""
    members = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    return {f"{name[2:-1]}.{name[-1]}": member for name, member in members.items() if name[2:].isdigit()}


@functools.cache
def logger_of(trt: Any) -> Any:
    """The only logger of a library; it keeps the last error and prints nothing.

    It lives until the process ends: the library registers the first logger that it gets, and crashes once that one has
    been freed.
    """

    class Quiet(trt.ILogger):  # type: ignore[misc]
        last = ""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            # If CUDA does not start, the library logs the reason as a warning only.
            if severity == trt.ILogger.Severity.ERROR or "CUDA initialization failure" in message:
                self.last = message

    return Quiet()


def monitor_of(trt: Any, on_progress: Callable[[str, int, int], None]) -> Any:
    """A progress monitor that reports the outermost phases of a build to `on_progress`.

    An exception of `on_progress` ends the build and is kept in the attribute `raised`, because it must not pass through
    the library's own frames.

    Returns:
        the monitor; None where the library has no progress monitors.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self.raised: BaseException | None = None

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if not parent:
                self._steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            return self._report(name, step + 1)

        def phase_finish(self, name: str) -> None:
            # The library does not always report the last step.
            self._report(name, self._steps.get(name, 0))
            self._steps.pop(name, None)

        def _report(self, name: str, done: int) -> bool:
            if name in self._steps and self.raised is None:
                try:
                    on_progress(name, min(done, self._steps[name]), self._steps[name])
                except (Exception, KeyboardInterrupt) as error:
                    self.raised = error
            return self.raised is None

    return Monitor()


def last_error(trt: Any) -> str:
    """The first line of the library's last error, which is then cleared; empty without one."""
    logger = logger_of(trt)
    message, logger.last = logger.last, ""
    return first_line_of(message)


def _strongly_typed(trt: Any) -> int:
    # All networks of TensorRT 11 are strongly typed, and it may lack the flag.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)
