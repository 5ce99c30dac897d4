"""Training samples: the input and the target of each step of a fit."""

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

ENOUGH_MEASURED = 0.25
"""Share of a crop that has to be measured, if one of a few draws has as much."""
MOST_DRAWS = 16
"""Largest number of draws of the crop of one step."""


class TrainingSample(NamedTuple):
    """The data of one training step.

    Attributes:
        input_image: [1, C, h, w], the network's input; the step's mask hides some of its values.
        target: [1, C, h, w], what the prediction is compared with.
        loss_region: rows and columns that count in the loss: image, not padding.
        orientation: the orientation in which the network gets the input.
        missing: bool [1, 1, h, w], pixels of the target that hold no measurement and do not count; None for none.
    """

    input_image: Tensor
    target: Tensor
    loss_region: tuple[slice, slice]
    orientation: int
    missing: Tensor | None = None


class TrainingSamples(Protocol):
    """The samples of all steps of a fit.

    Attributes:
        size: height and width of every sample, in pixels.
        hidden_only: whether an error counts only where the step's mask hid the value.
    """

    size: tuple[int, int]
    hidden_only: bool

    def sample(self, step: int) -> TrainingSample:
        """The sample of 0-based `step`."""


class CropWindow(NamedTuple):
    """The part of the padded image that one step uses.

    Attributes:
        rows, columns: position in the padded image.
        loss_region: rows and columns of the window that are image, not padding.
        orientation: the orientation in which the network gets the window.
    """

    rows: slice
    columns: slice
    loss_region: tuple[slice, slice]
    orientation: int


class CropSampler:
    """Draws the part of the image that each step uses.

    Without a crop, the whole image is padded by reflection to a size that the network accepts. A
    crop is taken from the image itself, and every pixel of it counts. Where the image is smaller
    than the crop along one axis, that axis is padded and used whole. Padding never enters the loss.
    A crop in which hardly anything is measured is drawn again.

    Attributes:
        image: float32 (C, H, W), padded; `window` refers to it.
        missing: bool (H, W), padded in the same way, pixels that hold no measurement; None for none.
        size: height and width of every window, in pixels.
    """

    def __init__(
        self,
        image: FloatArray,
        crop: int | None,
        seed: int,
        orientations: int = 1,
        missing: NDArray[np.bool_] | None = None,
    ) -> None:
        _, height, width = image.shape
        self._crops = [crop if crop is not None and crop < size else None for size in (height, width)]
        whole = Padding.for_size(height, width, SIZE_MULTIPLE, MINIMUM_SIZE)
        vertical = (0, 0) if self._crops[0] else (whole.top, whole.bottom)
        horizontal = (0, 0) if self._crops[1] else (whole.left, whole.right)
        self._padding = Padding(*vertical, *horizontal)
        self._seed = seed
        self.image = np.ascontiguousarray(self._padding.pad(image))
        self.missing = None if missing is None else self._padding.pad(missing)
        padded_height, padded_width = self.image.shape[1:]
        self.size = (self._crops[0] or padded_height, self._crops[1] or padded_width)
        # Masks have the shape of the window, so only a square can be transposed.
        self._orientations = orientations if self.size[0] == self.size[1] else min(orientations, MIRROR_ORIENTATIONS)

    def window(self, step: int) -> CropWindow:
        """The window of `image` that `step` uses."""
        rng = generator(self._seed, step, Stream.CROP)
        rows, columns = self._place(rng)
        pad = self._padding
        loss_region = (slice(pad.top, self.size[0] - pad.bottom), slice(pad.left, self.size[1] - pad.right))
        orientation = int(rng.integers(self._orientations)) if self._orientations > 1 else 0
        return CropWindow(rows, columns, loss_region, orientation)

    def _place(self, rng: np.random.Generator) -> tuple[slice, slice]:
        """Draw rows and columns until enough of them is measured; of too many draws, the one with most counts."""
        places: list[tuple[float, tuple[slice, slice]]] = []
        while True:
            starts = [
                int(rng.integers(whole - side + 1)) for whole, side in zip(self.image.shape[1:], self.size, strict=True)
            ]
            rows, columns = (slice(start, start + side) for start, side in zip(starts, self.size, strict=True))
            if self.missing is None:
                return rows, columns
            places.append((1 - float(self.missing[rows, columns].mean()), (rows, columns)))
            if places[-1][0] >= ENOUGH_MEASURED or len(places) == MOST_DRAWS:
                return max(places, key=lambda place: place[0])[1]


class HiddenPixelSamples:
    """The samples of the paper: the network predicts hidden values of the noisy image from the visible ones."""

    hidden_only = True

    def __init__(
        self,
        image: FloatArray,
        crop: int | None,
        seed: int,
        orientations: int,
        device: torch.device,
        missing: NDArray[np.bool_] | None = None,
    ) -> None:
        self._crops = CropSampler(image, crop, seed, orientations, missing)
        self._image = torch.from_numpy(self._crops.image).to(device)[None]
        self.size = self._crops.size

    def sample(self, step: int) -> TrainingSample:
        """The sample of 0-based `step`: a crop of the noisy image as both input and target."""
        rows, columns, loss_region, orientation = self._crops.window(step)
        noisy = self._image[:, :, rows, columns]
        missing = missing_tensor(self._crops.missing, rows, columns, noisy.device)
        return TrainingSample(noisy, noisy, loss_region, orientation, missing)


def missing_tensor(
    missing: NDArray[np.bool_] | None, rows: slice, columns: slice, device: torch.device
) -> Tensor | None:
    """A window of a map (H, W) as `TrainingSample.missing`."""
    return None if missing is None else torch.from_numpy(missing[rows, columns])[None, None].to(device)
