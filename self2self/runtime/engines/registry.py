"""Lists the engines, and loads the class of one by its name: a new engine is entered in `ENGINES`.

Names lead to modules that are imported only when an engine is asked for, so that no library is loaded without need.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from self2self.errors import EngineUnavailableError, UsageError
from self2self.runtime.engines.engine import Engine

ENGINES: dict[str, str] = {
    "trt": "self2self.runtime.engines.tensorrt.engine:TrtEngine",
    "ort-cuda": "self2self.runtime.engines.onnxruntime.cuda:OrtCudaEngine",
    "torch-cuda": "self2self.runtime.engines.torch_cuda.engine:TorchCudaEngine",
    "trt-rtx": "self2self.runtime.engines.tensorrt.engine:TrtRtxEngine",
    "ort-trt": "self2self.runtime.engines.onnxruntime.tensorrt:OrtTrtEngine",
    "torch-amx": "self2self.runtime.engines.torch_cpu.bf16:TorchAmxEngine",
    "torch-int8": "self2self.runtime.engines.torch_cpu.int8:TorchInt8Engine",
    "mnn": "self2self.runtime.engines.mnn.engine:MnnEngine",
    "ort": "self2self.runtime.engines.onnxruntime.cpu:OrtEngine",
    "torch": "self2self.runtime.engines.torch_cpu.reference:TorchEngine",
}
"""Engine names to ``module:class``, in the order in which `self2self engines` lists them."""

AUTO = ("torch-cuda", "torch-amx", "torch-int8", "mnn", "ort", "torch")
"""What `--engine auto` tries, best first by passes a second (docs/engines.md).

Of the engines for GPUs, those that need TensorRT run only when they are named: they have been tested with stand-ins,
and an image that nobody asked them for is not the place to find out more.
"""

NEEDS_GPU: dict[str, str] = {
    "trt": "pip install tensorrt",
    "ort-cuda": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "torch-cuda": "PyTorch's build for CUDA",
    "trt-rtx": "pip install tensorrt-rtx",
    "ort-trt": "pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt",
}
"""Engines that run on an NVIDIA GPU alone, with what they need besides."""


def get_engine(name: str) -> type[Engine]:
    """The engine class called `name`; ``auto`` is the first that works here.

    Raises:
        UsageError: there is no engine of that name.
        EngineUnavailableError: it, or for ``auto`` every one of `AUTO`, does not work on this machine.
    """
    if name == "auto":
        reasons = []
        for candidate in AUTO:
            try:
                return get_engine(candidate)
            except EngineUnavailableError as error:
                reasons.append(str(error))
        raise EngineUnavailableError("no engine works here: " + " ".join(reasons))
    engine = engine_class(name)
    engine.version()
    return engine


def engine_class(name: str) -> type[Engine]:
    """The engine class called `name`, whether or not it works here.

    Raises:
        UsageError: there is no engine of that name.
    """
    if name not in ENGINES:
        raise UsageError(f"--engine is {name!r}; expected one of: auto, {', '.join(ENGINES)}.")
    module, _, attribute = ENGINES[name].partition(":")
    engine: type[Engine] = getattr(import_module(module), attribute)
    return engine


def is_installed(module: str) -> bool:
    """Whether `module` can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except ValueError:
        # What find_spec says of a module that was blocked by None in sys.modules.
        return False


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A row of `self2self engines`."""

    name: str
    works: bool
    version: str
    problem: str


def engine_statuses() -> list[EngineStatus]:
    """Every engine and whether it works on this machine."""
    statuses = []
    for name in ENGINES:
        try:
            statuses.append(EngineStatus(name, True, engine_class(name).version(), ""))
        except EngineUnavailableError as error:
            statuses.append(EngineStatus(name, False, "", str(error)))
    return statuses
