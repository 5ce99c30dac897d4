"""Ahead-of-time engines of TensorRT and TensorRT-RTX, by one code path.

Both libraries have the same builder, parser and runtime under different module names. The
network is strongly typed, so the types in the ONNX file are the precision, and TF32 is switched
off, because a float32 engine that rounds its inputs to 10 bits would not be one. TensorRT
measures kernels and therefore builds on the GPU that will run the engine; TensorRT-RTX leaves
kernels to the first run and builds on any x86-64 machine.

`engine_cache` keeps what is built here on disk.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, UsageError, first_line, first_line_of
from self2self.machine.nvidia_libraries import explain
from self2self.model.contract import Contract
from self2self.runtime.engines.profiles import Profile


@dataclass(frozen=True, slots=True)
class Library:
    """One of the two libraries.

    Attributes:
        engine: its `--engine` name.
        module: its Python module.
        title: what people call it.
        package: what pip installs.
        builds_without_gpu: whether an engine can be built for a GPU that is elsewhere.
    """

    engine: str
    module: str
    title: str
    package: str
    builds_without_gpu: bool

    def load(self) -> Any:
        """Import the module.

        Raises:
            EngineUnavailableError: it is not installed or does not load.
        """
        try:
            return import_module(self.module)
        except ModuleNotFoundError as error:
            # Its own libraries may be missing where the package is there.
            absent = error.name == self.module
            raise EngineUnavailableError.of(
                self.engine,
                Obstacle.NOT_INSTALLED if absent else Obstacle.LIBRARY_MISSING,
                f"{self.title} " + ("is not installed" if absent else f"does not load ({error})"),
                f"Install it: pip install {self.package}.",
                instead="Or use --engine ort.",
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
                instead="Or use --engine ort.",
            ) from error


TENSORRT = Library("trt", "tensorrt", "TensorRT", "tensorrt", builds_without_gpu=False)
TENSORRT_RTX = Library("trt-rtx", "tensorrt_rtx", "TensorRT-RTX", "tensorrt-rtx", builds_without_gpu=True)
LIBRARIES = {library.engine: library for library in (TENSORRT, TENSORRT_RTX)}


@dataclass(slots=True)
class Parsed:
    """A parsed network with all that has to live as long as it does.

    Attributes:
        trt: the library's module.
        builder, network, parser: its objects; the network's weights belong to the parser.
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
        seconds: time of parsing and building.
    """

    data: bytes
    layer_count: int
    seconds: float


def parse(library: Library, data: bytes, source: str) -> Parsed:
    """Parse an ONNX file into a strongly typed network.

    Args:
        library: which one.
        data: the ONNX file.
        source: how messages call it.

    Raises:
        EngineUnavailableError: the library is missing, or does not start here.
        FileFormatError: it cannot read the graph.
    """
    trt = library.load()
    try:
        builder = trt.Builder(logger_of(trt))
        network = builder.create_network(_strongly_typed(trt))
        parser = trt.OnnxParser(network, logger_of(trt))
    except (RuntimeError, TypeError) as error:
        # TensorRT's constructors return null without a GPU, which the bindings turn into TypeError.
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
            "Use --engine ort, or export it again: self2self export --force"
        )
    return Parsed(trt, builder, network, parser)


def build(
    library: Library,
    data: bytes,
    contract: Contract,
    profile: Profile,
    *,
    source: str,
    capabilities: tuple[str, ...] = (),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Built:
    """Build an engine from an ONNX file.

    Args:
        library: which one.
        data: the ONNX file.
        contract: of the file.
        profile: the shapes that the engine has to take; already checked.
        source: how messages call the file.
        capabilities: compute capabilities that a TensorRT-RTX engine is for, such as ``"8.6"``;
            none for all from 8.0 up.
        on_progress: called with the name of the phase, its steps done and all its steps, where the
            library tells; from threads of the library.

    Raises:
        UsageError: the library cannot build for one of `capabilities`.
        EngineUnavailableError: the library is missing or cannot build this network.
        FileFormatError: it cannot read the graph.
    """
    start = time.perf_counter()
    parsed = parse(library, data, source)
    trt, builder = parsed.trt, parsed.builder
    config = builder.create_builder_config()
    # It has to live as long as the builder does.
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
    for name, shapes in profile.shapes(contract).items():
        optimisation.set_shape(name, *shapes)
    if config.add_optimization_profile(optimisation) < 0:
        raise EngineUnavailableError(
            f"engine {library.engine}: {library.title} {trt.__version__} refuses the shapes of {source} "
            f"({last_error(trt)}). Use --engine ort."
        )
    serialised = builder.build_serialized_network(parsed.network, config)
    if monitor is not None and monitor.raised is not None:
        raise monitor.raised
    if serialised is None:
        raise EngineUnavailableError(
            f"engine {library.engine}: {library.title} {trt.__version__} cannot build an engine from {source} "
            f"({last_error(trt) or 'no reason given'}). Use --engine ort."
        )
    return Built(bytes(serialised), parsed.network.num_layers, time.perf_counter() - start)


def capability_members(library: Library, trt: Any, capabilities: tuple[str, ...]) -> list[Any]:
    """The library's constants for compute capabilities such as ``"8.6"``.

    Raises:
        UsageError: the library does not name one of them, or names none at all.
    """
    known = named_capabilities(trt)
    if not known:
        raise UsageError(
            f"{library.title} builds for the GPU of this machine alone; a compute capability cannot be given. "
            "Use --engine trt-rtx to build for another GPU."
        )
    for capability in capabilities:
        if capability not in known:
            raise UsageError(
                f"{library.title} {trt.__version__} has no compute capability {capability}; "
                f"expected some of: {', '.join(known)}."
            )
    return [known[capability] for capability in capabilities]


def named_capabilities(trt: Any) -> dict[str, Any]:
    """Compute capabilities that engines can be built for, ``"8.6"`` to the constant; none for TensorRT."""
    members = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    return {f"{name[2:-1]}.{name[-1]}": member for name, member in members.items() if name[2:].isdigit()}


@functools.cache
def logger_of(trt: Any) -> Any:
    """The one logger of a library; it keeps the last error and prints nothing.

    One for the whole process and for ever: the library registers the first that it is given and
    crashes when that one has been freed.
    """

    class Quiet(trt.ILogger):  # type: ignore[misc]
        last = ""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            # That CUDA does not start is a warning for it, and all that it ever says of the reason.
            if severity == trt.ILogger.Severity.ERROR or "CUDA initialization failure" in message:
                self.last = message

    return Quiet()


def monitor_of(trt: Any, on_progress: Callable[[str, int, int], None]) -> Any:
    """An object that tells `on_progress` of the outermost phases of a build; None where the library has none.

    What `on_progress` raises ends the build and is kept in `raised`: it must not go through the
    library's own frames.
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
            return self._tell(name, step + 1)

        def phase_finish(self, name: str) -> None:
            # The last step is not always told.
            self._tell(name, self._steps.get(name, 0))
            self._steps.pop(name, None)

        def _tell(self, name: str, done: int) -> bool:
            if name in self._steps and self.raised is None:
                try:
                    on_progress(name, min(done, self._steps[name]), self._steps[name])
                except (Exception, KeyboardInterrupt) as error:
                    self.raised = error
            return self.raised is None

    return Monitor()


def last_error(trt: Any) -> str:
    """What the library complained about last, in one short line; forgets it."""
    logger = logger_of(trt)
    message, logger.last = logger.last, ""
    return first_line_of(message)


def _strongly_typed(trt: Any) -> int:
    # TensorRT 11 has no other networks, and may have no flag to ask for them.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)
