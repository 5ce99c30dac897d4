"""Lists the engines, and loads the class of one by its name: a new engine is entered in `ENGINES`.

Names lead to modules that are imported only when an engine is asked for, so that no library is loaded without need.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from self2self.errors import EngineUnavailableError, UsageError, typed
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
    "openvino": "self2self.runtime.engines.openvino.engine:OpenVinoEngine",
    "ort": "self2self.runtime.engines.onnxruntime.cpu:OrtEngine",
    "torch": "self2self.runtime.engines.torch_cpu.reference:TorchEngine",
}
"""Engine names to ``module:class``, in the order of the rows of `self2self engines`. A new engine is entered here."""

AUTO = ("torch-cuda", "torch-amx", "torch-int8", "mnn", "ort", "torch")
"""Engines that `--engine auto` tries, fastest first by passes a second (docs/engines.md).

Engines that need TensorRT run only when they are named, because they have been tested with stand-ins only.
"""

NEEDS_GPU: dict[str, str] = {
    "trt": "pip install tensorrt",
    "ort-cuda": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "torch-cuda": "PyTorch's build for CUDA",
    "trt-rtx": "pip install tensorrt-rtx",
    "ort-trt": "pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt",
}
"""Engines that need an NVIDIA GPU, with what has to be installed besides."""


ROUNDED_PIXELS = 2**20
"""Pixels of an image from which ``auto`` runs a plain model in an engine of low precision. Its few views do not average
rounding errors out, as many passes do: two views differ from those in float32 by 0.3 to 0.4 grey levels (RMS), which
costs 0.01 dB (dev/log). A smaller image takes a few seconds in float32, too."""


def get_engine(name: str, *, plain_pixels: int | None = None) -> type[Engine]:
    """The engine class called `name`, which works on this machine; ``auto`` is the first of `AUTO` that works.

    Args:
        name: a key of `ENGINES`, or ``"auto"``.
        plain_pixels: number of pixels of the image that ``auto`` has to run a plain model for; None for a model with
            masks.

    Raises:
        UsageError: there is no engine of that name.
        EngineUnavailableError: the engine, or for ``auto`` every engine of `AUTO`, does not work on this machine.
    """
    if name == "auto":
        reasons = []
        for candidate in AUTO:
            try:
                engine = get_engine(candidate)
            except EngineUnavailableError as error:
                reasons.append(str(error))
                continue
            if plain_pixels is None or _suits_plain(engine, plain_pixels):
                return engine
        raise EngineUnavailableError("no engine works here: " + " ".join(reasons))
    engine = engine_class(name)
    engine.version()
    return engine


def _suits_plain(engine: type[Engine], pixels: int) -> bool:
    """Whether `engine` runs plain models well for an image of so many pixels."""
    return engine.runs_plain and (engine.rounds_to not in ("int8", "bfloat16") or pixels >= ROUNDED_PIXELS)


def check_engine_name(name: str) -> None:
    """Refuse a name that no engine has, without loading one.

    Raises:
        UsageError: lists the names.
    """
    if name != "auto" and name not in ENGINES:
        raise _unknown(name)


def engine_class(name: str) -> type[Engine]:
    """The engine class called `name`, whether or not it works on this machine.

    Raises:
        UsageError: there is no engine of that name.
    """
    if name not in ENGINES:
        raise _unknown(name)
    module, _, attribute = ENGINES[name].partition(":")
    engine: type[Engine] = getattr(import_module(module), attribute)
    return engine


def _unknown(name: str) -> UsageError:
    return UsageError(f"{typed('--engine')} is {name!r}; expected one of: auto, {', '.join(ENGINES)}.")


def is_installed(module: str) -> bool:
    """Whether `module` can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except ValueError:
        # find_spec raises this for a module that is blocked by None in sys.modules.
        return False


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Whether an engine can be loaded on this machine.

    Attributes:
        name: of the engine.
        works: whether it can be loaded.
        version: name and version of its library; empty where it does not work.
        problem: why it does not work, and what to type; empty where it works.
    """

    name: str
    works: bool
    version: str
    problem: str


def engine_statuses() -> list[EngineStatus]:
    """The status of every engine on this machine, in the order of `ENGINES`."""
    statuses = []
    for name in ENGINES:
        try:
            statuses.append(EngineStatus(name, True, engine_class(name).version(), ""))
        except EngineUnavailableError as error:
            statuses.append(EngineStatus(name, False, "", str(error)))
    return statuses
