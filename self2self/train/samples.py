"""What each step of a fit sees, and what it is to find."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from self2self.imaging.orientation import MIRROR_ORIENTATIONS
from self2self.imaging.padding import Padding
from self2self.model.contract import MINIMUM_SIZE, SIZE_MULTIPLE
from self2self.model.masks import Stream, generator

FloatArray = NDArray[np.float32]


class TrainingSample(NamedTuple):
    """What a step learns from.

    Attributes:
        seen: [1, C, h, w] that the network is shown, but for what the step's mask hides.
        wanted: [1, C, h, w] that it is to find.
        inside: rows and columns that are image and not padding.
        orientation: the orientation in which it is shown.
    """

    seen: Tensor
    wanted: Tensor
    inside: tuple[slice, slice]
    orientation: int


class TrainingSamples(Protocol):
    """Examples for all steps; `size` is that of each of them, in pixels.

    Attributes:
        hidden_only: whether an error counts only where the step's mask hid the value.
    """

    size: tuple[int, int]
    hidden_only: bool

    def sample(self, step: int) -> TrainingSample:
        """That of 0-based `step`."""


class CropSampler:
    """Which part of the image each step sees.

    The whole image is padded by reflection to a size that the network takes; a crop is taken
    from the image itself, and every pixel of it counts. Where the image is smaller than the
    crop on one axis, the padded axis is used whole. Pixels of the padding never enter the loss.
    """

    def __init__(self, image: FloatArray, crop: int | None, seed: int, orientations: int = 1) -> None:
        _, height, width = image.shape
        self._crops = [crop if crop is not None and crop < size else None for size in (height, width)]
        whole = Padding.for_size(height, width, SIZE_MULTIPLE, MINIMUM_SIZE)
        vertical = (0, 0) if self._crops[0] else (whole.top, whole.bottom)
        horizontal = (0, 0) if self._crops[1] else (whole.left, whole.right)
        self._padding = Padding(*vertical, *horizontal)
        self._seed = seed
        self.image = np.ascontiguousarray(self._padding.pad(image))
        padded_height, padded_width = self.image.shape[1:]
        self.size = (self._crops[0] or padded_height, self._crops[1] or padded_width)
        # Masks have the shape of the crop, so only a square can be transposed.
        self._orientations = orientations if self.size[0] == self.size[1] else min(orientations, MIRROR_ORIENTATIONS)

    def window(self, step: int) -> tuple[slice, slice, tuple[slice, slice], int]:
        """Rows and columns of `image` that `step` sees, which of them are not padding, and the orientation."""
        rng = generator(self._seed, step, Stream.CROP)
        starts = [
            int(rng.integers(whole - side + 1)) for whole, side in zip(self.image.shape[1:], self.size, strict=True)
        ]
        rows, columns = (slice(start, start + side) for start, side in zip(starts, self.size, strict=True))
        pad = self._padding
        inside = (slice(pad.top, self.size[0] - pad.bottom), slice(pad.left, self.size[1] - pad.right))
        orientation = int(rng.integers(self._orientations)) if self._orientations > 1 else 0
        return rows, columns, inside, orientation


class HiddenPixelSamples:
    """The lessons of the paper: hidden values of the noisy image are to be found from the others."""

    hidden_only = True

    def __init__(self, image: FloatArray, crop: int | None, seed: int, orientations: int, device: torch.device) -> None:
        self._crops = CropSampler(image, crop, seed, orientations)
        self._image = torch.from_numpy(self._crops.image).to(device)[None]
        self.size = self._crops.size

    def sample(self, step: int) -> TrainingSample:
        """That of 0-based `step`."""
        rows, columns, inside, orientation = self._crops.window(step)
        noisy = self._image[:, :, rows, columns]
        return TrainingSample(noisy, noisy, inside, orientation)
