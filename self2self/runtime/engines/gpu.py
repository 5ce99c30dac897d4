"""Checks that the NVIDIA parts that an engine needs are there, and explains which part is missing.

The cheap checks come first: a machine without a GPU gets its answer in milliseconds, before torch or
TensorRT is loaded.
"""

from __future__ import annotations

from self2self.errors import EngineUnavailableError, Obstacle
from self2self.machine.nvidia import Gpu, NoGpu, built_for, driver_for, find_gpu
from self2self.runtime.engines.registry import is_installed


def require_gpu(engine: str) -> Gpu:
    """The GPU that engines run on.

    Raises:
        EngineUnavailableError: there is no GPU, or its driver does not work.
    """
    found = find_gpu()
    if isinstance(found, NoGpu):
        raise EngineUnavailableError.of(engine, found.cause, found.reason, found.remedy)
    return found


def require_driver(engine: str, gpu: Gpu, title: str, cuda_version: str) -> None:
    """Check that the driver runs programs that were built for a CUDA version.

    Args:
        engine: name of the engine, as in `--engine`.
        gpu: the GPU.
        title: name of the library that was built for that version, for messages.
        cuda_version: such as ``"13.0"``; an empty, unknown version passes the check.

    Raises:
        EngineUnavailableError: the driver is too old for the major version.
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
    """Check that PyTorch can allocate memory on the GPU.

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
    # This import costs more than all other checks, and a machine without a GPU does not need it.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def cuda_major_of(package: str) -> str:
    """CUDA major version of an installed NVIDIA package, from its ``_cu13`` companion; ``""`` if unknown."""
    for major in range(20, 10, -1):
        if is_distribution(f"{package}_cu{major}"):
            return str(major)
    return ""
