"""Pad images to the sizes that the network accepts, and crop them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from self2self.model.contract import MINIMUM_SIZE, SIZE_MULTIPLE

T = TypeVar("T", bound=np.generic)


def padded_size(height: int, width: int, multiple: int = SIZE_MULTIPLE, minimum: int = MINIMUM_SIZE) -> tuple[int, int]:
    """Return the smallest height and width that hold an image: multiples of `multiple`, and at least `minimum`."""
    padded_height, padded_width = (max(minimum, -(-length // multiple) * multiple) for length in (height, width))
    return padded_height, padded_width


@dataclass(frozen=True, slots=True)
class Padding:
    """Number of reflected pixels that are added on each side of the last two axes.

    Attributes:
        top, bottom, left, right: number of pixels added.
    """

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def for_size(cls, height: int, width: int, multiple: int = SIZE_MULTIPLE, minimum: int = MINIMUM_SIZE) -> Padding:
        """Return the smallest padding to a multiple of `multiple` that is at least `minimum`, split evenly."""
        padded_height, padded_width = padded_size(height, width, multiple, minimum)
        top, left = (padded_height - height) // 2, (padded_width - width) // 2
        return cls(top, padded_height - height - top, left, padded_width - width - left)

    def pad(self, array: NDArray[T]) -> NDArray[T]:
        """Pad [..., H, W] to [..., H + top + bottom, W + left + right] by reflection without the edge pixel.

        Where nothing is added, the result is `array` itself, unless it is read-only: PyTorch takes no such array.
        """
        if not any((self.top, self.bottom, self.left, self.right)) and array.flags.writeable:
            return array
        leading = [(0, 0)] * (array.ndim - 2)
        # If the padding is wider than the image, numpy reflects repeatedly; ONNX's Pad would not.
        return np.pad(array, [*leading, (self.top, self.bottom), (self.left, self.right)], mode="reflect")

    def pad_indices(self, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return, for each row and each column of the padded image, the index of the row or column that it repeats."""
        indices = [np.arange(size) for size in (height, width)]
        pads = [(self.top, self.bottom), (self.left, self.right)]
        rows, columns = (np.pad(index, pad, mode="reflect") for index, pad in zip(indices, pads, strict=True))
        return rows, columns

    def crop(self, array: NDArray[T]) -> NDArray[T]:
        """Return the view of a padded array without the padding: the inverse of `pad`."""
        height, width = array.shape[-2:]
        return array[..., self.top : height - self.bottom, self.left : width - self.right]
