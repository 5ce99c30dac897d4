"""Whether an engine's NVIDIA parts are there, and what to say of each that is not.

The cheap questions come first: a machine without a GPU is told so in milliseconds, before torch
or TensorRT is loaded.
"""

from __future__ import annotations

from self2self.errors import EngineUnavailableError, Obstacle
from self2self.machine.nvidia import Gpu, NoGpu, built_for, driver_for, find_gpu
from self2self.runtime.engines.registry import is_installed


def require_gpu(engine: str) -> Gpu:
    """The GPU that engines run on.

    Raises:
        EngineUnavailableError: there is none, or its driver does not work.
    """
    found = find_gpu()
    if isinstance(found, NoGpu):
        raise EngineUnavailableError.of(engine, found.cause, found.reason, found.remedy)
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
        raise EngineUnavailableError.of(
            engine,
            Obstacle.DRIVER_TOO_OLD,
            f"the NVIDIA driver is too old: it runs CUDA {gpu.cuda[0]}.{gpu.cuda[1]}, and {title} needs CUDA {major}",
            f"Install {driver_for(int(major))}.",
        )


def require_torch_cuda(engine: str, gpu: Gpu) -> None:
    """Check that PyTorch can hold memory on the GPU.

    Raises:
        EngineUnavailableError: PyTorch is missing, is a build for CPUs, or is too new for the driver or the GPU.
    """
    if not is_installed("torch"):
        raise EngineUnavailableError.of(
            engine, Obstacle.NOT_INSTALLED, "PyTorch is not installed", "Install it: pip install torch."
        )
    import torch

    if torch.version.cuda is None:
        raise EngineUnavailableError.of(
            engine,
            Obstacle.TORCH_WITHOUT_CUDA,
            f"PyTorch {torch.__version__} is a build for CPUs",
            "Install the one for CUDA: pip install --force-reinstall torch.",
        )
    require_driver(engine, gpu, f"PyTorch {torch.__version__}", torch.version.cuda)
    if not torch.cuda.is_available():
        raise EngineUnavailableError.of(
            engine,
            Obstacle.DRIVER_TOO_OLD,
            f"PyTorch {torch.__version__} cannot use {gpu.name}",
            "Update the NVIDIA driver.",
        )
    if not built_for(torch.cuda.get_arch_list(), gpu.compute_capability):
        raise EngineUnavailableError.of(
            engine,
            Obstacle.GPU_NOT_SERVED,
            f"PyTorch {torch.__version__} does not run on {gpu.name} (compute capability {gpu.capability})",
            "An older PyTorch may.",
        )


def is_distribution(name: str) -> bool:
    """Whether pip has installed the package `name`."""
    # Here, because it costs more than all the rest, and a machine without a GPU needs none of it.
    from importlib.metadata import PackageNotFoundError, distribution

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
