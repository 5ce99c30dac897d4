"""What the ensemble asks of an engine that takes masks on a device, and where masks are made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from self2self.errors import EngineUnavailableError, UsageError, typed
from self2self.machine.system import free_memory_bytes
from self2self.model.contract import Contract
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.profiles import BATCHES
from self2self.runtime.engines.torch_cuda.nvrtc import compiled
from self2self.runtime.ensemble.device_masks import KERNELS, DeviceMasks
from self2self.runtime.memory_budget import DEVICE_SHARE, fitting_passes, pass_bytes
from self2self.runtime.model import Model

if TYPE_CHECKING:
    import torch

MASK_SOURCES = ("auto", "host", "device")
TRIAL_BATCHES = tuple(1 << power for power in range(BATCHES[2].bit_length()))
"""Batches that are tried on a device."""


@runtime_checkable
class DeviceEngine(Protocol):
    """An engine that takes masks on the device; what it has in addition to the members of `Engine`."""

    device: ClassVar[str]
    channels_last_masks: ClassVar[bool]
    model: Model
    image: FloatArray

    def run_on_device(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Compute predictions, float32 [N, C, H, W] on the device; the next call may overwrite them.

        The work starts after all earlier work of PyTorch's current stream, and later work of that stream waits for it.

        Raises:
            MemoryError, torch.OutOfMemoryError: the batch did not fit.
            FileFormatError: the graph cannot be run.
        """

    def largest_device_batch(self) -> int:
        """Largest number of passes in one call."""

    def set_image(self, image: FloatArray) -> None:
        """As for `Engine.set_image`; no passes run at that time."""


def choose_mask_source(wanted: str, engine: type[Engine]) -> str:
    """Choose ``"host"`` or ``"device"`` for the `wanted` mask source and the class of an engine that works here.

    Raises:
        UsageError: there is no such source, or the engine cannot take masks on a device.
    """
    if wanted not in MASK_SOURCES:
        raise UsageError(f"{typed('--mask-source')} is {wanted!r}; expected one of: {', '.join(MASK_SOURCES)}.")
    takes_device_masks = hasattr(engine, "run_on_device") and _torch_can_use(getattr(engine, "device", ""))
    if wanted == "device" and not takes_device_masks:
        reason = "PyTorch cannot use CUDA here" if hasattr(engine, "run_on_device") else "it runs on the CPU"
        raise UsageError(
            f"{typed('--mask-source device')} does not work with engine {engine.name}: {reason}. Use host."
        )
    return "device" if takes_device_masks and wanted != "host" else "host"


def _torch_can_use(device: str) -> bool:
    try:
        import torch
    except (ImportError, OSError):
        return False
    return device == "cpu" or bool(torch.cuda.is_available())


def masks_for(engine: DeviceEngine, seed: int, place: int = 0) -> DeviceMasks:
    """Create the mask maker for the image of `engine`, in the memory order that the engine takes.

    Args:
        engine: an engine, prepared or not.
        seed: seed of all masks.
        place: position of the tile, as for `masks.MaskMaker`.
    """
    axes = dict(zip("HW", engine.image.shape[2:], strict=True))
    kernels = None
    if engine.device != "cpu":
        with suppress(EngineUnavailableError):
            kernels = compiled(KERNELS)
    specs = engine.model.contract.masks
    return DeviceMasks(specs, axes, seed, engine.device, place, engine.channels_last_masks, kernels)


def largest_device_batch(contract: Contract, axes: Mapping[str, int], free_bytes: int) -> int:
    """The largest batch worth trying with `free_bytes` of device memory."""
    return min(TRIAL_BATCHES[-1], fitting_passes(pass_bytes(contract, axes), DEVICE_SHARE * free_bytes))


def free_device_bytes(device: str) -> int:
    """Free memory of the GPU, or of the host for ``"cpu"``."""
    if device == "cpu":
        return free_memory_bytes()
    import torch

    return int(torch.cuda.mem_get_info()[0])
