"""Find the NVIDIA GPU of this machine by asking the driver.

The driver's library answers in milliseconds and needs neither torch nor a CUDA toolkit. It sees the
same devices as CUDA programs: it respects ``CUDA_VISIBLE_DEVICES``, and engines run on device 0.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from self2self.errors import Obstacle

_CUDA_ERROR_NO_DEVICE = 100
"""Status of ``cuInit`` if the driver finds no device."""
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`` and ``_MINOR``."""
_FIRST_DRIVER_OF_CUDA = {11: "450", 12: "525", 13: "580"}
"""Oldest driver of each major version of CUDA, on Linux."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """CUDA device 0.

    Attributes:
        name: the driver's name for the device.
        compute_capability: (major, minor).
        memory_bytes: total memory of the device, free or not.
        cuda: newest CUDA version (major, minor) that the driver runs.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    cuda: tuple[int, int]

    @property
    def capability(self) -> str:
        """The compute capability as text, for example ``8.6``."""
        return "{}.{}".format(*self.compute_capability)


@dataclass(frozen=True, slots=True)
class NoGpu:
    """Why this machine has no usable GPU.

    Attributes:
        cause: what is missing, for programs.
        reason: the same cause in words.
        remedy: one sentence with what the user can do.
    """

    cause: Obstacle
    reason: str
    remedy: str


_NO_VISIBLE_GPU = NoGpu(
    Obstacle.NO_GPU,
    "the NVIDIA driver finds no GPU",
    "It needs an NVIDIA GPU that CUDA_VISIBLE_DEVICES does not hide.",
)


def find_gpu() -> Gpu | NoGpu:
    """Return CUDA device 0, or why it cannot be used."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = _open_driver(name)
    except OSError:
        return NoGpu(
            Obstacle.NO_DRIVER,
            f"there is no NVIDIA driver ({name} was not found)",
            "It needs an NVIDIA GPU and its driver.",
        )
    status = driver.cuInit(0)
    if status == _CUDA_ERROR_NO_DEVICE:
        return _NO_VISIBLE_GPU
    if status:
        return NoGpu(
            Obstacle.DRIVER_BROKEN,
            f"the NVIDIA driver does not start (CUDA error {status})",
            "Restart the machine, or install the driver again.",
        )
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    if count.value < 1:
        return _NO_VISIBLE_GPU
    return _describe(driver)


def driver_for(cuda_major: int) -> str:
    """Return the driver that CUDA `cuda_major` needs, in words."""
    known = _FIRST_DRIVER_OF_CUDA.get(cuda_major)
    return f"driver {known} or newer" if known else "a newer driver"


def built_for(architectures: Sequence[str], capability: tuple[int, int]) -> bool:
    """Return whether a library runs on a GPU, given the architectures that it was compiled for.

    Machine code (``sm_``) runs on GPUs of the same major version and the same or a later minor version. With a letter
    behind the number it runs on that one version only. Intermediate code (``compute_``), which the driver compiles at
    load time, also runs on all newer GPUs.

    Args:
        architectures: for example ``"sm_80"``, ``"sm_90a"`` or ``"compute_90"``; an empty list means any GPU.
        capability: compute capability (major, minor) of the GPU.
    """
    return not architectures or any(
        _runs_on(*architecture.partition("_")[::2], capability) for architecture in architectures
    )


def _runs_on(kind: str, number: str, capability: tuple[int, int]) -> bool:
    digits = number.rstrip("af")
    if not digits.isdigit():
        return False
    wanted = divmod(int(digits), 10)
    if wanted == capability:
        return True
    if digits != number:
        return False
    return wanted < capability and (kind == "compute" or wanted[0] == capability[0])


def _open_driver(name: str) -> Any:
    return ctypes.CDLL(name)


def _describe(driver: Any) -> Gpu:
    device, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    driver.cuDriverGetVersion(ctypes.byref(version))
    # The driver encodes CUDA 12.4 as 12040.
    cuda = (version.value // 1000, version.value % 1000 // 10)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), memory.value, cuda)
