"""The start weights that ship with the package.

They were fitted to openly licensed photographs (docs/model-card.md), so a fit that starts from
them has seen images other than the user's; ``--init scratch`` has not.
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
"""Pixels a side of the part of an image that start weights are tried on, which takes a tenth of a second."""
MOST_BEYOND = 1.0
"""How far a single pass may leave [0, 1]; for images, noise and patterns of many kinds it is less than a half."""
COMPARED_PASSES = 4
LITTLE_HIDDEN = 0.05
"""Where little is hidden in a trial; the limits below are for this."""
MOST_TAKEN = 1.5
"""So many times as much may be taken away where much is hidden (a standard deviation): of the noise of cameras up to
1.42 times is, of texture 1.5 to 2.6 times (dev/log)."""
MOST_MEASURED = 0.9
"""Where neighbours share their noise, what is measured of it is less than this share of what is taken away with little
hidden: of the noise of cameras 0.2 to 0.8, of slightly blurred noise 0.8. Of independent noise it is 0.9 and more, and
where texture is measured with it 1.0 to 3 (dev/log)."""
LITTLE_CORRELATION, TAKEN_CORRELATION = 0.07, 0.06
"""What is measured in an image above the first may be noise of which neighbours share a little, and is if what is
taken away is above the second: that of independent noise of any kind is up to 0.05 (dev/log)."""
LEAST_SHARED = 4.0
"""From this strength on, in 8-bit grey levels, it matters: what is weaker may be the grain of a clean image."""
FILES = {1: FOLDER / "pretrained-grey.safetensors", 3: FOLDER / "pretrained-rgb.safetensors"}
CAMERA_FILES = {1: FOLDER / "pretrained-grey-camera.safetensors", 3: FOLDER / "pretrained-rgb-camera.safetensors"}
"""How those differ from them that have seen more of the noise that a camera's processing spreads over neighbouring
pixels, for grey also of micrographs and of noise of photons."""
QUANTISATION_STEPS = "steps"
"""What a difference has beside its tensors of whole numbers: what one of them is worth, for each output channel of each
weight and for each bias, in the order of their names."""


def has_pretrained_weights(channels: int) -> bool:
    """Whether start weights for images of so many channels ship with the package."""
    return channels in FILES and FILES[channels].is_file()


def pretrained_files(channels: int, camera: bool = False) -> tuple[Path, ...]:
    """The files of `pretrained_weights`: weights, and with `camera` how others differ from them.

    Raises:
        UsageError: there is none for so many channels.
    """
    if not has_pretrained_weights(channels):
        raise UsageError(f"--init natural has no weights for {channels} channels. Use --init scratch.")
    return (FILES[channels], CAMERA_FILES[channels]) if camera else (FILES[channels],)


def pretrained_weights(channels: int, camera: bool = False) -> dict[str, torch.Tensor]:
    """Start weights by name, in the precision in which they are stored.

    Args:
        channels: of the image.
        camera: take those that know the noise of cameras and microscopes better.

    Raises:
        UsageError: there are none for so many channels.
    """
    from self2self.train.checkpoint import read_tensors

    weights, *differences = (read_tensors(path)[0] for path in pretrained_files(channels, camera))
    for difference in differences:
        weights = with_difference(weights, difference)
    return weights


def with_difference(weights: dict[str, torch.Tensor], difference: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other weights, float32, from `weights` and how they differ from them (`scripts/difference_weights.py`).

    A difference is small: where 8 bits tell it, the sum is about as exact as bfloat16.
    """
    others, first = {}, 0
    for name in sorted(weights):
        tensor = weights[name].float()
        last = first + (len(tensor) if tensor.dim() > 1 else 1)
        steps = difference[QUANTISATION_STEPS][first:last].float().view(-1, *[1] * (tensor.dim() - 1))
        others[name] = tensor + difference[name].float() * steps
        first = last
    return others


def start_weights_for_recipe(recipe: Recipe, channels: int) -> dict[str, torch.Tensor] | None:
    """The weights that a fit by `recipe` starts from; None for random ones.

    Raises:
        UsageError: there are none for so many channels.
    """
    return pretrained_weights(channels, recipe.camera) if recipe.init == "natural" else None


def predicts_an_image(weights: dict[str, torch.Tensor], pixels: NDArray[np.float32], recipe: Recipe) -> bool:
    """Whether what `weights` predict for `pixels` is an image at all, from one pass over the middle of it.

    A network's answer to what it has not learnt can be off by any factor, and a fit does not find back from there.

    Args:
        weights: of a network of `recipe`.
        pixels: float32 (C, H, W), the noisy image.
        recipe: of the fit.
    """
    from self2self.train.prediction import predict

    prediction = predict(weights, center_crop(pixels, TRIAL_SIDE), recipe, passes=1)
    return bool(np.abs(prediction - 0.5).max() <= 0.5 + MOST_BEYOND)


def adapt_recipe(recipe: Recipe, noise: Noise, pixels: NDArray[np.float32]) -> Recipe:
    """`recipe` as it suits an image, from its noise, and where that is not as simple as it can be, from a trial.

    Fine texture, or impulses, and noise that neighbours share or that depends on the signal look the same to
    `diagnosis`, but not to a network:

    - Noise of photons grows with the brightness, and so does texture often; and where most of an image has no photons,
      it seems to have no noise. It is that of photons if those start weights that know it best predict hidden values
      better than the others do. Where it only seems to be, it is texture.
    - A correlation is that of the noise only if what the start weights take away is correlated as well; impulses are
      not, whatever texture there is between them.
    - A network that sees less of an image takes more of its texture away, but hardly more of its noise. And what is
      measured as noise is too little where it is shared, but counts fine texture, which a network that sees most of an
      image keeps. So what the start weights take away while little is hidden is compared with both. Where they take
      texture for the most part, as little is hidden in the fit and in the passes, and the result gets that share of
      the difference back by which hiding much takes more than hiding little: what is not noise of it, as in Wiener's
      filter.

    Args:
        recipe: before `Recipe.for_noise`; one that does not choose by the noise stays what it is.
        noise: what was measured in `pixels`.
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
    # Of the second decimal, machines may have different ones, and a run is continued by the same recipe only.
    share = max(0.0, 1 - (taken / more) ** 2) if more else 0.0
    return chosen.for_little_correlation(noisy_share=int(10 * share) / 10)


def _photons_are_known_best(pixels: NDArray[np.float32], recipe: Recipe) -> bool:
    """Whether the start weights that know noise of photons predict hidden values best, at the drop rate of `recipe`."""
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
    """What start weights take away of the middle of an image.

    Returns:
        its standard deviation, in 8-bit grey levels, and how correlated it is between neighbours, the mean of both
        directions.
    """
    from self2self.train.prediction import predict

    image = clip_to_range(center_crop(pixels, TRIAL_SIDE))
    taken = image - predict(weights, image, recipe, passes=COMPARED_PASSES)
    return GREY_LEVELS * float(np.std(taken)), neighbour_correlation(autocorrelation(taken))
