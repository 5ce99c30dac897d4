"""Defines the base class of all engines.

An engine runs an exported model on the masks that it is given. The base class owns the life cycle and checks the image
once. Each engine implements three methods: `version`, `prepare` and `run`. The loop over hundreds of passes
(`runtime.ensemble`) can then rely on checked inputs. `registry` lists the engines.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from self2self.errors import EngineUnavailableError, ResourceError, UsageError, pytorch_memory, typed
from self2self.model.contract import Contract
from self2self.model.masks import BoolArray, Draws, MaskMaker
from self2self.runtime.memory_budget import pass_bytes
from self2self.runtime.model import Model

FloatArray = NDArray[np.float32]


def count_passes(masks: Mapping[str, BoolArray]) -> int:
    """The number of passes that `masks` are for; a run without masks is one pass."""
    return len(next(iter(masks.values()))) if masks else 1


def _ignore(text: str) -> None:
    return None


class Engine(ABC):
    """One way to run a model; use it as a context manager.

    Args:
        model: the model to run.
        image: float32 [1, C, H, W], already padded to the contract's size multiple; all passes share it.

    Raises:
        UsageError: the channels, type or size of `image` do not suit the model.
        EngineUnavailableError: the engine does not run this kind of model.
    """

    name: ClassVar[str]
    """Name of the engine, as in `--engine`."""
    note: Callable[[str], None] = staticmethod(_ignore)
    """Called with one line that the user should read while the engine is prepared."""
    first_pass: int = 0
    """Index of the first pass of the next run, for an engine whose passes differ by more than their masks."""
    whole_image: FloatArray | None = None
    """The image, float32 (C, H, W) of any size, of which all images of the engine are tiles; None where they are not.
    An engine that lays out its numbers for an image does so for this one, so that tiles agree."""
    copy_seconds: float | None = None
    """Seconds that `run` spent on copying masks in and predictions out; None if copies cannot be timed apart."""
    rounds_to: ClassVar[Literal["tf32", "bfloat16", "int8"] | None] = None
    """Type that float32 values are rounded to before they are multiplied; None for no rounding.

    TF32 keeps 10 bits. With bfloat16 and int8 only the mean of many passes is exact (`torch_cpu.bf16_network`,
    `torch_cpu.int8_layers`).
    """
    host_channels_last: ClassVar[bool] = False
    """Whether the host draws masks in the memory order channels last; the same seed then gives other masks."""
    runs_plain: ClassVar[bool] = False
    """Whether the engine runs plain models, which have no masks."""
    channels_last_masks: ClassVar[bool] = False
    """Whether masks that are drawn on the engine's device have to have the memory order channels last."""

    def __init__(self, model: Model, image: FloatArray) -> None:
        contract = model.contract
        if contract.plain and not self.runs_plain:
            raise EngineUnavailableError(
                f"{typed('--engine', self.name)} does not run plain models such as {model.path}, without masks. Use "
                f"{typed('--engine ort')}."
            )
        expected = f"float32 [1, {contract.channels}, H, W]"
        if image.dtype != np.float32 or image.ndim != 4 or image.shape[:2] != (1, contract.channels):
            raise UsageError(f"the engine got {image.dtype} {list(image.shape)}; {model.path} expects {expected}.")
        if any(s % contract.size_multiple or s < contract.minimum_size for s in image.shape[2:]):
            raise UsageError(
                f"the engine got an image of {image.shape[2]}x{image.shape[3]}; expected multiples of "
                f"{contract.size_multiple} from {contract.minimum_size} up. Pad it first."
            )
        if model.size is not None and image.shape[2:] != model.size:
            height, width = model.size
            raise UsageError(
                f"{model.path} is fixed to {height}x{width} and this image has {image.shape[2]}x{image.shape[3]} "
                "after padding. Export it for all sizes: self2self export --force"
            )
        self.model = model
        self.image = np.ascontiguousarray(image)

    def set_image(self, image: FloatArray) -> None:
        """Replace the image by another of the same size, without loading the model again.

        Args:
            image: float32 [1, C, H, W].

        Raises:
            UsageError: `image` has another type or shape than the image before.
            MemoryError: what the engine derives from the image does not fit.
        """
        if image.dtype != np.float32 or image.shape != self.image.shape:
            raise UsageError(
                f"the engine got {image.dtype} {list(image.shape)}; expected float32 {list(self.image.shape)}, "
                "as for the image before."
            )
        self.image = np.ascontiguousarray(image)
        self._use_image()

    def mask_maker(self, seed: int, *, balanced: bool = False) -> MaskMaker:
        """A maker of masks on the host, for passes over the image, in the memory order that the engine expects."""
        axes = dict(zip("HW", self.image.shape[2:], strict=True))
        specs = self.model.contract.mask_inputs
        draws = Draws.BALANCED if balanced else Draws.PAIRED
        return MaskMaker(specs, axes, seed, draws=draws, channels_last=self.host_channels_last)

    def _use_image(self) -> None:  # noqa: B027 - not every engine holds a copy
        """Update what `prepare` derived from `self.image`; does nothing before `prepare`."""

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """Memory of one pass over data of `axes`, in bytes, as `memory_budget.pass_bytes`."""
        return pass_bytes(contract, axes)

    @classmethod
    def further_pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """Memory of each further pass of a run, in bytes."""
        return cls.pass_bytes(contract, axes)

    @classmethod
    def useful_batch(cls, axes: Mapping[str, int]) -> int:
        """The largest batch, over data of `axes`, that may still be faster than several smaller batches."""
        return sys.maxsize

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Name and version of the library, if the engine works on this machine.

        Raises:
            EngineUnavailableError: the engine does not work; the message says why, and what to type.
        """

    @classmethod
    def device_name(cls) -> str:
        """Name of the device that a working engine computes on: the CPU, or a GPU."""
        return "CPU"

    @abstractmethod
    def prepare(self) -> None:
        """Load the model.

        Raises:
            FileFormatError: the library cannot load this file.
            ResourceError: the model does not fit into memory.
        """

    @abstractmethod
    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """Run one pass for each entry of the masks' first axis.

        Args:
            masks: from the contract's mask names to bool arrays [N, ...]; none for a plain model.

        Returns:
            predictions, float32 [N, C, H, W]; the next call may overwrite them.

        Raises:
            MemoryError: the batch did not fit; a smaller batch may.
            FileFormatError: the graph was loaded but cannot be run.
        """

    def provider(self) -> str:
        """What really computes, for example an execution provider and a device."""
        return self.name

    def close(self) -> None:  # noqa: B027 - not every engine holds something
        """Release what `prepare` allocated; safe to call twice, or after `prepare` failed."""

    def __enter__(self) -> Self:
        self.version()
        try:
            with pytorch_memory():
                self.prepare()
        except BaseException as error:
            # Python calls __exit__ only for a block that was entered.
            self.close()
            if isinstance(error, MemoryError):
                raise ResourceError(
                    f"out of memory while loading {self.model.path}. Close other programs and try again."
                ) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
