"""Loads the start weights that ship with the package, and adapts a recipe to an image by trials with them.

The weights were fitted to openly licensed photographs (docs/model-card.md). So the result of a fit that starts from
them depends on more than the user's image; with ``--init scratch`` it depends on the image alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from self2self.errors import UsageError
from self2self.imaging.noise import GREY_LEVELS, Noise, autocorrelation, center_crop, neighbour_correlation
from self2self.imaging.outliers import clip_to_range
from self2self.train.recipes import FOR_CORRELATED, Recipe

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

FOLDER = Path(__file__).parent.parent / "weights"
TRIAL_SIDE = 256
"""Side of the part of an image on which start weights are tried, in pixels; a pass over it takes 0.1 s."""
LARGEST_EXCESS = 1.0
"""Largest distance of a prediction from [0, 1] in a single pass. For many kinds of images, noise and patterns it is
less than a half."""
COMPARED_PASSES = 4
"""Passes of each trial whose predictions are compared."""
LITTLE_HIDDEN = 0.05
"""Drop rate of the trial in which little is hidden; the limits below hold for it."""
MOST_TAKEN = 1.5
"""Largest ratio, for noise, of the standard deviation that the start weights remove while much is hidden to the one
that they remove while little is hidden. The ratio is up to 1.42 for camera noise and 1.5 to 2.6 for texture
(dev/log)."""
MOST_MEASURED = 0.9
"""Largest ratio, for correlated noise, of the measured noise level to the standard deviation that the start weights
remove while little is hidden. The ratio is 0.2 to 0.8 for camera noise and 0.8 for slightly blurred noise. It is 0.9
and more for independent noise, and 1.0 to 3 where texture is measured as noise (dev/log)."""
LITTLE_CORRELATION, TAKEN_CORRELATION = 0.07, 0.06
"""Noise may be slightly correlated if the correlation measured in the image is above the first limit. It is slightly
correlated if that of what the start weights remove is above the second: for independent noise of any kind, the latter
is at most 0.05 (dev/log)."""
LEAST_SHARED = 4.0
"""Smallest noise level, in 8-bit grey levels, at which a slight correlation matters: weaker noise may be the grain of a
clean image."""
FILES = {1: FOLDER / "pretrained-grey.safetensors", 3: FOLDER / "pretrained-rgb.safetensors"}
"""Start weights by number of channels."""
CAMERA_FILES = {1: FOLDER / "pretrained-grey-camera.safetensors", 3: FOLDER / "pretrained-rgb-camera.safetensors"}
"""Differences of the camera weights from `FILES`. The camera weights were trained on more noise that a camera's
processing has spread over neighbouring pixels, those for grey also on micrographs and photon noise."""
QUANTISATION_STEPS = "steps"
"""Name of the tensor with a difference's quantisation steps. The other tensors of a difference are whole numbers of
these steps. There is one step for each output channel of each weight and one for each bias, in the order of names."""


def has_pretrained_weights(channels: int) -> bool:
    """Whether start weights for images with this number of channels ship with the package."""
    return channels in FILES and FILES[channels].is_file()


def pretrained_files(channels: int, camera: bool = False) -> tuple[Path, ...]:
    """The files of `pretrained_weights`: the weights, and with `camera` the difference to add.

    Raises:
        UsageError: there are none for this number of channels.
    """
    if not has_pretrained_weights(channels):
        raise UsageError(f"--init natural has no weights for {channels} channels. Use --init scratch.")
    return (FILES[channels], CAMERA_FILES[channels]) if camera else (FILES[channels],)


def pretrained_weights(channels: int, camera: bool = False) -> dict[str, torch.Tensor]:
    """Start weights by name, in the precision in which they are stored; with `camera` they are float32.

    Args:
        channels: channels of the image.
        camera: take the weights for the noise of cameras and microscopes.

    Raises:
        UsageError: there are none for this number of channels.
    """
    from self2self.train.checkpoint import read_tensors

    weights, *differences = (read_tensors(path)[0] for path in pretrained_files(channels, camera))
    for difference in differences:
        weights = with_difference(weights, difference)
    return weights


def with_difference(weights: dict[str, torch.Tensor], difference: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`weights` plus a difference that `scripts/difference_weights.py` has quantised, float32.

    A difference is small. With 8 bits for it, the sum is about as exact as bfloat16.
    """
    sums, first = {}, 0
    for name in sorted(weights):
        tensor = weights[name].float()
        last = first + (len(tensor) if tensor.dim() > 1 else 1)
        steps = difference[QUANTISATION_STEPS][first:last].float().view(-1, *[1] * (tensor.dim() - 1))
        sums[name] = tensor + difference[name].float() * steps
        first = last
    return sums


def start_weights_for_recipe(recipe: Recipe, channels: int) -> dict[str, torch.Tensor] | None:
    """The shipped weights from which a fit with `recipe` starts; None for random ones.

    Raises:
        UsageError: there are none for this number of channels.
    """
    return pretrained_weights(channels, recipe.camera) if recipe.init == "natural" else None


def predicts_an_image(weights: dict[str, torch.Tensor], pixels: NDArray[np.float32], recipe: Recipe) -> bool:
    """Whether `weights` predict values near [0, 1] for `pixels`, judged by one pass over the image's middle.

    For an image unlike those of its training, a network's prediction can be wrong by any factor, and a fit does not
    recover from such a start.

    Args:
        weights: weights of a network of `recipe`.
        pixels: float32 (C, H, W), the noisy image.
        recipe: recipe of the fit.
    """
    from self2self.train.prediction import predict

    prediction = predict(weights, center_crop(pixels, TRIAL_SIDE), recipe, passes=1)
    return bool(np.abs(prediction - 0.5).max() <= 0.5 + LARGEST_EXCESS)


def adapt_recipe(recipe: Recipe, noise: Noise, pixels: NDArray[np.float32]) -> Recipe:
    """Adapt `recipe` to an image: by its measured noise and, where the noise is not simple, by trials.

    The measurement (`imaging.noise`) cannot tell correlated or signal-dependent noise from fine texture or impulses.
    A network can:

    - Photon noise grows with the brightness, but often texture does too. And an image that is mostly without photons
      seems to have no noise. The noise counts as photon noise if the start weights for it predict hidden values better
      than the other start weights do. Otherwise it counts as equally strong at every brightness, and what looked like
      photon noise as texture.
    - The noise is correlated only if the difference that the start weights remove is correlated as well. For impulses
      it is not, whatever texture lies between them.
    - If more of an image is hidden from a network, the network removes more texture, but hardly more noise. And the
      measured level of correlated noise is too low, while that of fine texture is too high against what a network
      removes that sees most of the image. So two quantities are compared with what the start weights remove while
      little is hidden: what they remove while much is hidden, and the measured level. If they remove mostly texture,
      little is hidden in the fit and in the passes, and the result gets a share of the difference between noisy image
      and prediction back, as in a Wiener filter: 1 - v / V with the variances v and V of what they remove while little
      and while much is hidden.

    Args:
        recipe: the recipe before `Recipe.for_noise`; a recipe that does not depend on the noise stays as it is.
        noise: the noise that was measured in `pixels`.
        pixels: float32 (C, H, W), the noisy image.
    """
    chosen = recipe.for_noise(noise)
    if recipe.pass_drop_rate is None or not has_pretrained_weights(len(pixels)):
        return chosen
    of_photons = recipe.for_noise(replace(noise, signal_dependent=True))
    if of_photons.camera and not noise.correlated and (noise.signal_dependent or noise.sigma == 0):
        if _photons_are_known_best(pixels, of_photons):
            return of_photons
        even = recipe.for_noise(replace(noise, signal_dependent=False))
        chosen = replace(even, even_noise=noise.signal_dependent)
    faint = noise.correlation <= LITTLE_CORRELATION or noise.sigma < LEAST_SHARED
    if faint and not noise.correlated:
        return chosen
    little = chosen.for_little_correlation()
    weights = pretrained_weights(len(pixels), camera=True)
    taken, correlation = _taken(weights, pixels, replace(little, pass_drop_rate=LITTLE_HIDDEN))
    if not noise.correlated:
        return little if correlation > TAKEN_CORRELATION else chosen
    more, _ = _taken(weights, pixels, replace(little, pass_drop_rate=FOR_CORRELATED.pass_drop_rate))
    if more <= MOST_TAKEN * taken and noise.sigma < MOST_MEASURED * taken:
        if correlation > TAKEN_CORRELATION:
            return chosen
        return adapt_recipe(recipe, replace(noise, correlation=0.0, horizontal=0.0, vertical=0.0), pixels)
    # The second decimal may differ between machines, and a run continues only with the same recipe.
    share = max(0.0, 1 - (taken / more) ** 2) if more else 0.0
    return chosen.for_little_correlation(noisy_share=int(10 * share) / 10)


def _photons_are_known_best(pixels: NDArray[np.float32], recipe: Recipe) -> bool:
    """Whether the camera weights predict hidden values better than the others do, at the drop rate of `recipe`."""
    from self2self.train.prediction import hidden_error

    image = center_crop(pixels, TRIAL_SIDE)
    if image.min() == image.max():
        return False
    ordinary, of_photons = (
        hidden_error(pretrained_weights(len(image), camera), image, recipe, passes=COMPARED_PASSES)
        for camera in (False, True)
    )
    return of_photons < ordinary


def _taken(weights: dict[str, torch.Tensor], pixels: NDArray[np.float32], recipe: Recipe) -> tuple[float, float]:
    """Measure the difference that start weights remove from the middle of an image.

    Returns:
        Its standard deviation in 8-bit grey levels, and the correlation of neighbouring pixels in it, the mean of both
        directions.
    """
    from self2self.train.prediction import predict

    image = clip_to_range(center_crop(pixels, TRIAL_SIDE))
    taken = image - predict(weights, image, recipe, passes=COMPARED_PASSES)
    return GREY_LEVELS * float(np.std(taken)), neighbour_correlation(autocorrelation(taken))
