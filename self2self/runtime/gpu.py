"""Whether an engine's NVIDIA parts are there, and what to say of each that is not.

The cheap questions come first: a machine without a GPU is told so in milliseconds, before torch
or TensorRT is loaded.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution

from self2self.errors import EngineUnavailableError
from self2self.nvidia import Gpu, NoGpu, driver_for, find_gpu


def unavailable(engine: str, reason: str, remedy: str = "") -> EngineUnavailableError:
    """The error for `engine`: what is missing, what helps, and what works meanwhile."""
    return EngineUnavailableError(" ".join(filter(None, [f"engine {engine}: {reason}.", remedy, "Use --engine ort."])))


def require_gpu(engine: str) -> Gpu:
    """The GPU that engines run on.

    Raises:
        EngineUnavailableError: there is none, or its driver does not work.
    """
    found = find_gpu()
    if isinstance(found, NoGpu):
        raise unavailable(engine, found.reason, found.remedy)
    return found


def require_driver(engine: str, gpu: Gpu, title: str, cuda_version: str) -> None:
    """Check that the driver runs programs of a CUDA version.

    Args:
        engine: its `--engine` name.
        gpu: the GPU.
        title: the library that was built for that version.
        cuda_version: such as ``"13.0"``; empty when it is not known, which passes.

    Raises:
        EngineUnavailableError: the driver is older than the major version.
    """
    major = cuda_version.partition(".")[0]
    if major.isdigit() and gpu.cuda[0] < int(major):
        raise unavailable(
            engine,
            f"the NVIDIA driver is too old: it runs CUDA {gpu.cuda[0]}.{gpu.cuda[1]}, and {title} needs CUDA {major}",
            f"Install {driver_for(int(major))}.",
        )


def is_distribution(name: str) -> bool:
    """Whether pip has installed the package `name`."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def cuda_major_of(package: str) -> str:
    """CUDA major version that an installed NVIDIA package is for, by its ``_cu13`` companion; or ``""``."""
    for major in range(20, 10, -1):
        if is_distribution(f"{package}_cu{major}"):
            return str(major)
    return ""


def missing_library(error: OSError) -> str:
    """The shared library that a loader's message complains about; ``""`` if it names none."""
    match = re.match(r"(\S+\.so[.\d]*|\S+\.dll): cannot open shared object", str(error))
    return match.group(1) if match else ""
