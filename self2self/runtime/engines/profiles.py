"""Describes the range of image sizes and batches that a TensorRT engine is built for.

TensorRT optimises for ranges of input shapes. The range of every mask follows from the ranges of height, width and
batch, so nobody has to write eleven shapes by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from self2self.errors import UsageError
from self2self.imaging.padding import padded_size
from self2self.model.contract import IMAGE, Contract
from self2self.runtime.memory_budget import DEVICE_SHARE, fitting_passes, pass_bytes

Size = tuple[int, int]
Shape = tuple[int, ...]

BATCHES = (1, 16, 64)
"""Smallest, optimal and largest batch by default."""


def batches_up_to(most: int) -> tuple[int, int, int]:
    """`BATCHES`, limited to a largest batch of `most` passes."""
    return 1, min(BATCHES[1], most), most


@dataclass(frozen=True, slots=True)
class Profile:
    """Ranges of height, width and batch.

    Attributes:
        minimum, optimum, maximum: (height, width) after padding; the engine is fastest at the optimum.
        batches: smallest, optimal and largest number of passes in a run.
    """

    minimum: Size
    optimum: Size
    maximum: Size
    batches: tuple[int, int, int] = BATCHES

    @classmethod
    def fixed(cls, size: Size, batches: tuple[int, int, int] = BATCHES) -> Profile:
        """The profile for a single size."""
        return cls(size, size, size, batches)

    def check(self, contract: Contract, fixed_size: Size | None = None) -> None:
        """Check that the graph accepts all sizes of the profile.

        Args:
            contract: of the model.
            fixed_size: the only (height, width) of the graph; None for any.

        Raises:
            UsageError: a size is no multiple, too small, out of order, or not the size that the graph is fixed to.
        """
        multiple, least = contract.size_multiple, contract.minimum_size
        sizes = (self.minimum, self.optimum, self.maximum)
        for height, width in sizes:
            if height % multiple or width % multiple or min(height, width) < least:
                near = "x".join(map(str, padded_size(height, width, multiple, least)))
                raise UsageError(
                    f"an engine cannot be built for {height}x{width}; expected multiples of {multiple} from {least} "
                    f"up, for example {near}."
                )
            if fixed_size is not None and (height, width) != fixed_size:
                raise UsageError(
                    f"an engine cannot be built for {height}x{width}: the model is fixed to "
                    f"{fixed_size[0]}x{fixed_size[1]}. Export it for all sizes: self2self export --force"
                )
        for axis, name in enumerate(("heights", "widths")):
            _check_order(name, [size[axis] for size in sizes])
        if self.batches[0] < 1:
            raise UsageError(f"the least batch is {self.batches[0]}; expected at least 1.")
        _check_order("batches", self.batches)

    def shapes(self, contract: Contract) -> dict[str, tuple[Shape, Shape, Shape]]:
        """Smallest, optimal and largest shape of every input of the graph, in the order of the inputs."""
        sizes = (self.minimum, self.optimum, self.maximum)
        all_axes = [{"H": height, "W": width} for height, width in sizes]
        # The image is shared by all passes: its first axis is 1, whatever the batch.
        images: list[Shape] = [(1, contract.channels, *size) for size in sizes]
        ranges: dict[str, tuple[Shape, Shape, Shape]] = {IMAGE: (images[0], images[1], images[2])}
        for mask in contract.masks:
            least, best, most = ((batch, *mask.shape(axes)) for batch, axes in zip(self.batches, all_axes, strict=True))
            ranges[mask.name] = (least, best, most)
        return ranges

    def covers(self, size: Size) -> bool:
        """Whether an engine for this profile can run an image of padded size `size`, down to a single pass."""
        low, high = self.minimum, self.maximum
        return self.batches[0] == 1 and all(a <= s <= b for a, s, b in zip(low, size, high, strict=True))

    def slug(self) -> str:
        """A unique part for file names, such as ``64x96-b32`` or ``64x64-256x256-512x512-b2-4-8``."""
        sizes = (self.minimum, self.optimum, self.maximum)
        batches = self.batches[2:] if self.batches == batches_up_to(self.batches[2]) else self.batches
        words = ["x".join(map(str, size)) for size in (sizes if len(set(sizes)) > 1 else sizes[:1])]
        return "-".join([*words, "b" + "-".join(map(str, batches))])

    def to_json(self) -> dict[str, list[int]]:
        """Plain values; `from_json` reads them back."""
        return {
            "minimum": list(self.minimum),
            "optimum": list(self.optimum),
            "maximum": list(self.maximum),
            "batches": list(self.batches),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Profile:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: `values` is something else.
        """
        (a, b), (c, d), (e, f) = (map(int, values[key]) for key in ("minimum", "optimum", "maximum"))
        least, best, most = map(int, values["batches"])
        return cls((a, b), (c, d), (e, f), (least, best, most))


def profile_for(contract: Contract, size: Size, memory_bytes: int) -> Profile:
    """The profile for one padded size, with the largest batch that fits into the device.

    The batch depends on the total memory of the device, not on its free memory. So the same profile comes out every
    time, and an engine that was built once is found again.
    """
    fitting = fitting_passes(pass_bytes(contract, {"H": size[0], "W": size[1]}), DEVICE_SHARE * memory_bytes)
    most = min(BATCHES[2], 2 ** (fitting.bit_length() - 1))
    return Profile.fixed(size, batches_up_to(most))


def _check_order(name: str, values: Iterable[int]) -> None:
    least, best, most = values
    if not least <= best <= most:
        raise UsageError(
            f"the {name} of the engine are {least}, {best}, {most}; expected least, best and most in that order."
        )
