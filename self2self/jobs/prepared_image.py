"""An image as the fit and the passes see it, with what is known of its noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from self2self.image_io import Image, image_hash
from self2self.image_io.value_range import restore, to_whole_range
from self2self.imaging.noise import Noise, Residual, center_crop, has_noise, measure_noise, measure_residual
from self2self.imaging.outliers import remove_hot_pixels
from self2self.runtime.ensemble.pass_plan import is_published_recipe
from self2self.train.recipes import Recipe

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image in the value range that the network sees; the one object that travels from file to result.

    Attributes:
        image: the pixels in that range, and what the file says besides.
        noise: measured in the middle of the pixels; None where no fit asked for it.
        whole_range: whether 0 and 1 are black and white of the file's type, and not the ends of the image's own values.
    """

    image: Image
    noise: Noise | None
    whole_range: bool

    @property
    def pixels(self) -> FloatArray:
        """float32 (C, H, W), in [0, 1] but for outliers; `fit` and `denoise` replace hot pixels and pad."""
        return self.image.pixels

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return int(self.image.pixels.shape[0])

    @property
    def sha256(self) -> str:
        """`image_io.image_hash` of the image."""
        return image_hash(self.image)

    def center(self) -> Center:
        """A copy of the middle, without hot pixels, that stays when the result takes the memory of the pixels."""
        return Center(remove_hot_pixels(center_crop(self.pixels).copy(), in_place=True))

    @property
    def measured_noise(self) -> Noise:
        """The noise, measured now if it was not before."""
        return noise_of(self.image) if self.noise is None else self.noise

    def assessed_by(self, recipe: Recipe) -> PreparedImage:
        """A copy whose noise is what the trial behind `recipe` found, whatever was measured."""
        return replace(self, noise=recipe.apply_assessment(self.measured_noise))

    def to_file_values(self, values: FloatArray) -> NDArray[np.generic]:
        """`values` (C, H, W) of a result, in the range and type of the file."""
        image = self.image
        return restore(values, image.offset, image.scale, image.dtype)

    def deviations_to_file_values(self, deviations: FloatArray) -> NDArray[np.generic]:
        """Standard deviations (C, H, W) over passes, in the units of the file's values, float32."""
        return restore(deviations, 0.0, self.image.scale, np.dtype(np.float32))


@dataclass(frozen=True, slots=True)
class Center:
    """The middle of a noisy image, for statistics of what was removed.

    Attributes:
        pixels: float32 (C, h, w), without hot pixels.
    """

    pixels: FloatArray

    def residual(self, result: FloatArray) -> Residual:
        """What was removed in the middle.

        Args:
            result: float32 (C, H, W), of the whole image.
        """
        return measure_residual(self.pixels, center_crop(result))

    @property
    def has_noise(self) -> bool:
        """Whether there is any noise to speak of."""
        return has_noise(self.pixels)


def noise_of(image: Image) -> Noise:
    """The noise of `image`, measured in its middle."""
    return measure_noise(center_crop(image.pixels))


def wants_whole_range(recipe: str, noise: Noise) -> bool:
    """Whether a fit by `recipe` to an image with `noise` sees the whole range of the file's type.

    The paper's recipes do, as published. A fit to correlated noise does, because the start weights mistake the coarse
    noise of a dark, stretched photograph for texture (dev/log).
    """
    return is_published_recipe(recipe) or noise.correlated


def prepare(image: Image, recipe: str, *, whole_range: bool | None = None) -> PreparedImage:
    """`image` in the value range that suits a fit by `recipe`.

    Args:
        image: as it was read, in the range of its own values.
        recipe: name of the recipe.
        whole_range: a decision that was made before, such as for page 1 of a stack; None decides by recipe and noise.
    """
    noise = noise_of(image)
    if whole_range is None:
        whole_range = wants_whole_range(recipe, noise)
    if not whole_range:
        return PreparedImage(image, noise, whole_range=False)
    whole = to_whole_range(image)
    return PreparedImage(whole, noise if whole is image else noise_of(whole), whole_range=True)


def prepare_for_model(image: Image, *, whole_range: bool) -> PreparedImage:
    """`image` in the value range that a model expects; its noise is not measured.

    Args:
        image: in the range of its own values, or in the whole range already.
        whole_range: `Contract.whole_range` of the model.
    """
    return PreparedImage(to_whole_range(image) if whole_range else image, None, whole_range)
