"""The start weights that ship with the package.

They were fitted to openly licensed photographs (docs/model-card.md), so a fit that starts from
them has seen images other than the user's; ``--init scratch`` has not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from self2self.diagnosis import central
from self2self.errors import UsageError
from self2self.extremes import within_range

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from self2self.train.recipes import Recipe

FOLDER = Path(__file__).parent.parent / "weights"
TRIED_SIDE = 256
"""Pixels a side of the part of an image that start weights are tried on, which takes a tenth of a second."""
MOST_BEYOND = 1.0
"""How far a single pass may leave [0, 1]; for images, noise and patterns of many kinds it is less than a half."""
COMPARED_PASSES = 4
MOST_TAKEN = 1.5
"""So many times as much may be taken away where much is hidden (a standard deviation): of the noise of cameras up to
1.42 times is, of texture 1.5 to 2.6 times (docs/experiments.md)."""
FILES = {1: FOLDER / "natural-grey.safetensors", 3: FOLDER / "natural-rgb.safetensors"}
CAMERA_FILES = {1: FOLDER / "natural-grey-camera.safetensors", 3: FOLDER / "natural-rgb-camera.safetensors"}
"""How those differ from them that have seen more of the noise that a camera's processing spreads over neighbouring
pixels, for grey also of micrographs and of noise of photons."""
STEPS = "steps"
"""What a difference has beside its tensors of whole numbers: what one of them is worth, for each output channel of each
weight and for each bias, in the order of their names."""


def has_natural_weights(channels: int) -> bool:
    """Whether start weights for images of so many channels ship with the package."""
    return channels in FILES and FILES[channels].is_file()


def natural_files(channels: int, camera: bool = False) -> tuple[Path, ...]:
    """The files of `natural_weights`: weights, and with `camera` how others differ from them.

    Raises:
        UsageError: there is none for so many channels.
    """
    if not has_natural_weights(channels):
        raise UsageError(f"--init natural has no weights for {channels} channels. Use --init scratch.")
    return (FILES[channels], CAMERA_FILES[channels]) if camera else (FILES[channels],)


def natural_weights(channels: int, camera: bool = False) -> dict[str, torch.Tensor]:
    """Start weights by name, in the precision in which they are stored.

    Args:
        channels: of the image.
        camera: take those that know the noise of cameras and microscopes better.

    Raises:
        UsageError: there are none for so many channels.
    """
    from self2self.train.checkpoint import read_tensors

    weights, *differences = (read_tensors(path)[0] for path in natural_files(channels, camera))
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
        steps = difference[STEPS][first:last].float().view(-1, *[1] * (tensor.dim() - 1))
        others[name] = tensor + difference[name].float() * steps
        first = last
    return others


def start_of(recipe: Recipe, channels: int) -> dict[str, torch.Tensor] | None:
    """The weights that a fit by `recipe` starts from; None for random ones.

    Raises:
        UsageError: there are none for so many channels.
    """
    return natural_weights(channels, recipe.camera) if recipe.init == "natural" else None


def predict_an_image(weights: dict[str, torch.Tensor], pixels: NDArray[np.float32], recipe: Recipe) -> bool:
    """Whether what `weights` predict for `pixels` is an image at all, from one pass over the middle of it.

    A network's answer to what it has not learnt can be off by any factor, and a fit does not find back from there.

    Args:
        weights: of a network of `recipe`.
        pixels: float32 (C, H, W), the noisy image.
        recipe: of the fit.
    """
    from self2self.train.prediction import predict

    prediction = predict(weights, central(pixels, TRIED_SIDE), recipe, passes=1)
    return bool(np.abs(prediction - 0.5).max() <= 0.5 + MOST_BEYOND)


def texture_share(recipe: Recipe, pixels: NDArray[np.float32]) -> float:
    """How much of what the start weights take for noise that neighbours share is texture of the image.

    The two look the same to `diagnosis`. A network that sees less of an image takes more of its texture away, but
    hardly more of its noise. So what the start weights take away is compared between the share of pixels that is
    hidden for such noise, and next to none.

    Args:
        recipe: after `Recipe.for_noise`; one that found no such noise takes no texture for it.
        pixels: float32 (C, H, W), the noisy image.

    Returns:
        share of the variance of what is taken away where much is hidden by which it exceeds that of the other, a
        multiple of a tenth; 0 where the other is not exceeded by far (`MOST_TAKEN`).
    """
    if recipe.target != "simulated":
        return 0.0
    from self2self.train.prediction import predict

    weights = natural_weights(len(pixels), recipe.camera)
    image = within_range(central(pixels, TRIED_SIDE))
    much, little = (
        float(np.std(image - predict(weights, image, tried, passes=COMPARED_PASSES)))
        for tried in (recipe, recipe.for_texture(0.0))
    )
    # Of the second decimal, machines may have different ones, and a run is continued by the same recipe only.
    return min(0.9, round(1 - (little / much) ** 2, 1)) if much > MOST_TAKEN * little else 0.0
