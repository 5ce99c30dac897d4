"""Calibrates a fitted network to give in one pass, without masks, what the mean of its passes gives.

The network without masks learns to predict the mean of passes over mirrored images, on crops of the fitted image. It
learns from the passes alone, which have removed the noise already, so it needs no hidden pixels and cannot memorise the
noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from self2self.imaging.orientation import oriented
from self2self.imaging.outliers import clip_to_range, remove_outliers
from self2self.model.contract import MINIMUM_SIZE
from self2self.model.masks import Stream, generator
from self2self.model.network import Self2SelfNet, to_channels_last
from self2self.train.fused_forward import fastest_forward
from self2self.train.prediction import mirrored_passes
from self2self.train.recipes import Recipe
from self2self.train.samples import CropSampler

FloatArray = NDArray[np.float32]

STEPS = 80
LEARNING_RATE = 3e-4
"""Steps and the rate of the first of them, which falls to zero along a straight line (dev/log)."""
BETAS = (0.9, 0.99)
CALIBRATED = ("decoder", "head")
"""Parts of the network that learn. Dropout is before the convolutions of the decoder, so without it theirs are the
activations that change. An encoder that learnt as well would gain nothing on other crops, and take half as long again
(dev/log)."""
BATCH = 2
"""Patches of a step, with `MINIMUM_SIZE` pixels a side."""
CROP = 128
"""Side of the crops on which passes are run, in pixels."""
CROPS = 8
"""Largest number of crops to learn from."""
ROUNDS = 2
"""Passes over each crop in each of the mirror orientations. More passes with fewer crops teach no more."""


class Lesson(NamedTuple):
    """A crop and what the network without masks shall predict for it, both [C, H, W]."""

    noisy: Tensor
    target: Tensor


def calibrate(
    weights: dict[str, Tensor],
    pixels: FloatArray,
    recipe: Recipe,
    *,
    seed: int = 0,
    steps: int = STEPS,
    on_step: Callable[[int], None] = lambda step: None,
) -> dict[str, Tensor]:
    """Weights of the network without masks; they are a function of the arguments alone.

    Args:
        weights: the fitted weights, for passes with masks; the steps run on their device.
        pixels: float32 (C, H, W), the fitted image.
        recipe: of the fit.
        seed: of the crops and the masks of the passes.
        steps: number of steps.
        on_step: called after every step with the number of steps so far.
    """
    crops = crops_of(pixels, seed, range(CROPS), impulses=recipe.removes_impulses)
    lessons = [Lesson(torch.from_numpy(crop), torch.from_numpy(_target(weights, crop, recipe, seed))) for crop in crops]
    device = next(iter(weights.values())).device
    network = Self2SelfNet(len(pixels), recipe.encoder_width, recipe.decoder_widths, 1.0)
    network.load_state_dict(weights)
    network = to_channels_last(network, device)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(CALIBRATED))
    forward = fastest_forward(network, recipe)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(learning, LEARNING_RATE, BETAS)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / steps)
        noisy, target = (patches.to(device) for patches in _patches(lessons, seed, step))
        loss = (forward(noisy) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        on_step(step + 1)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}


def crops_of(pixels: FloatArray, seed: int, numbers: Sequence[int], *, impulses: bool = False) -> list[FloatArray]:
    """Crops of at most `CROP` pixels a side at random places of the image, clipped to [0, 1] and without outliers.

    An image that is smaller along an axis is padded there to a size that the network accepts. No more crops are
    returned than would cover the image, except for one.

    Args:
        pixels: float32 (C, H, W).
        seed: of the places.
        numbers: of the crops; each has a place of its own.
        impulses: as for `remove_outliers`.
    """
    sampler = CropSampler(pixels, CROP, seed)
    height, width = sampler.image.shape[1:]
    enough = max(1, math.ceil(height * width / CROP**2))
    crops = []
    for number in list(numbers)[:enough]:
        rows, columns, _, _ = sampler.window(number)
        crop = remove_outliers(sampler.image[:, rows, columns], impulses=impulses)
        crops.append(np.ascontiguousarray(clip_to_range(crop)))
    return crops


def _target(weights: dict[str, Tensor], crop: FloatArray, recipe: Recipe, seed: int) -> FloatArray:
    target: FloatArray = np.mean(mirrored_passes(weights, crop, recipe, ROUNDS, seed=seed), axis=0, dtype=np.float32)
    return target


def _patches(lessons: Sequence[Lesson], seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a step, [BATCH, C, side, side] each, in random orientations."""
    rng = generator(seed, step, Stream.PLAIN)
    noisy: list[Tensor] = []
    targets: list[Tensor] = []
    for _ in range(BATCH):
        lesson = lessons[int(rng.integers(len(lessons)))]
        top, left = (int(rng.integers(side - MINIMUM_SIZE + 1)) for side in lesson.noisy.shape[1:])
        orientation = int(rng.integers(8))
        for patches, whole in ((noisy, lesson.noisy), (targets, lesson.target)):
            patch = whole[:, top : top + MINIMUM_SIZE, left : left + MINIMUM_SIZE]
            patches.append(oriented(patch, orientation))
    return torch.stack(noisy).contiguous(memory_format=torch.channels_last), torch.stack(targets)
