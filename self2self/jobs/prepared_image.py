"""Prepare an image for the fit and the passes: choose its value range, and measure its noise where it is asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from self2self.image_io import Image, image_hash
from self2self.image_io.value_range import WHITE_VALUES, to_whole_range
from self2self.image_io.write import stored_deviations, stored_values
from self2self.imaging.missing import measured_part, measured_window
from self2self.imaging.noise import (
    GREY_LEVELS,
    Noise,
    Residual,
    estimate_correlation,
    has_noise,
    is_correlated,
    measure_noise,
    measure_residual,
)
from self2self.imaging.outliers import remove_hot_pixels
from self2self.runtime.ensemble.pass_plan import is_published_recipe

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image in the value range of the network, with its noise. Jobs pass this object on from file to result.

    Attributes:
        image: the pixels in that range, and the other contents of the file.
        noise: noise of the middle of the image, or where most of it is measured, as start weights found it; None if
            they did not look for it.
        whole_range: whether 0 and 1 stand for black and white of the file's type instead of for the ends of the image's
            own values.
        fused: whether the pixels are those of a page that is fused with its neighbours.
    """

    image: Image
    noise: Noise | None
    whole_range: bool
    fused: bool = False

    @property
    def pixels(self) -> FloatArray:
        """float32 (C, H, W), in [0, 1] except for outliers; hot pixels are not replaced, and there is no padding."""
        return self.image.pixels

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return int(self.image.pixels.shape[0])

    @property
    def grey_levels(self) -> float:
        """How many of 255 grey levels, between black and white of the file's type, lie between 0 and 1 in `pixels`."""
        white = WHITE_VALUES.get(self.image.dtype.name, self.image.scale)
        return GREY_LEVELS * self.image.scale / white

    @property
    def sha256(self) -> str:
        """`image_io.image_hash` of the image."""
        return image_hash(self.image)

    @property
    def fused_sha256(self) -> str:
        """SHA-256 of the pixels if they are `fused`, in hex; else empty, and `sha256` says all about them.

        It is computed anew each time, and only fits need it.
        """
        return hashlib.sha256(np.ascontiguousarray(self.pixels).data).hexdigest() if self.fused else ""

    @property
    def missing(self) -> NDArray[np.bool_] | None:
        """The map of pixels that hold no measurement, bool (H, W); `pixels` are filled smoothly there."""
        return self.image.missing

    def measured_part(self, side: int) -> FloatArray:
        """The part of the pixels, up to `side` a side, that tells most of the image (`imaging.missing`)."""
        return measured_part(self.pixels, self.missing, side)

    def center(self) -> Center:
        """Copy the middle, without hot pixels; the copy stays if the result takes the memory of the pixels.

        An image without anything to denoise keeps them, as its result does.
        """
        part = measured_part(self.pixels, self.missing).copy()
        window = measured_window(self.missing, self.pixels.shape[1:])
        return Center(part if self.image.is_empty else remove_hot_pixels(part, in_place=True), window)

    @property
    def measured_noise(self) -> Noise:
        """The noise; it is measured now if start weights did not find it."""
        return noise_of(self.image) if self.noise is None else self.noise

    def assessed_as(self, noise: Noise | None) -> PreparedImage:
        """A copy with the noise that the start weights found; the image itself if there is none."""
        return self if noise is None else replace(self, noise=noise)

    def to_file_values(self, values: FloatArray) -> NDArray[np.generic]:
        """Map `values` (C, H, W) of a result to stored values (H, W, C), in the range and type of the file."""
        return stored_values(values, self.image)

    def deviations_to_file_values(self, deviations: FloatArray) -> NDArray[np.generic]:
        """Map standard deviations (C, H, W) over passes to the units of the stored values, float32 (H, W, C)."""
        return stored_deviations(deviations, self.image)


@dataclass(frozen=True, slots=True)
class Center:
    """The middle of a noisy image, or where most is measured, kept for statistics of what is removed.

    Attributes:
        pixels: float32 (C, h, w), without hot pixels.
        window: its rows and columns in the image.
    """

    pixels: FloatArray
    window: tuple[slice, slice]

    def residual(self, result: FloatArray) -> Residual:
        """Measure what was removed from the middle.

        Args:
            result: float32 (C, H, W), the result for the whole image.
        """
        return measure_residual(self.pixels, result[:, *self.window])

    @property
    def has_noise(self) -> bool:
        """Whether the middle has measurable noise (`imaging.noise.has_noise`)."""
        return has_noise(self.pixels)


def noise_of(image: Image) -> Noise:
    """Measure the noise of `image` in its middle, or where most is measured."""
    return measure_noise(measured_part(image.pixels, image.missing))


def wants_whole_range(recipe: str, pixels: FloatArray) -> bool:
    """Whether a fit with `recipe` to an image, (C, H, W), uses the whole range of the file's type.

    The paper's recipes use it, as published. A fit to correlated noise uses it because the start weights mistake the
    coarse noise of a dark, stretched photograph for texture (dev/log).
    """
    return is_published_recipe(recipe) or is_correlated(estimate_correlation(pixels))


def prepare(image: Image, recipe: str, *, whole_range: bool | None = None) -> PreparedImage:
    """Map `image` to the value range for a fit with `recipe`.

    Args:
        image: an image as it was read, in the range of its own values.
        recipe: name of the recipe.
        whole_range: an earlier decision, such as for page 1 of a stack; None decides by recipe and noise.
    """
    if whole_range is None:
        whole_range = wants_whole_range(recipe, measured_part(image.pixels, image.missing))
    return prepare_for_model(image, whole_range=whole_range)


def prepare_for_model(image: Image, *, whole_range: bool) -> PreparedImage:
    """Map `image` to the value range that a model expects.

    Args:
        image: an image in the range of its own values, or already in the whole range.
        whole_range: `Contract.whole_range` of the model.
    """
    return PreparedImage(to_whole_range(image) if whole_range else image, None, whole_range)
