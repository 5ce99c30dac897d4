"""Calibrates the fitted network to give in one pass, without masks, what the mean of its passes gives.

A network that was fitted with dropout sees other activations when dropout is switched off, and predicts worse than the
mean of passes (Li et al. 2019, "Understanding the disharmony between dropout and batch normalization by variance
shift"). A few steps mend that: the network without masks learns to predict the mean of passes over mirrored images, on
crops of the fitted image. It learns from the passes alone, which have removed the noise already, so it needs no hidden
pixels and cannot memorise the noise.

Crops that it did not learn from then show whether it is as good as the passes (`Check`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from self2self.imaging.noise import GREY_LEVELS
from self2self.imaging.orientation import oriented
from self2self.imaging.outliers import clip_to_range, remove_outliers
from self2self.model.contract import MINIMUM_SIZE
from self2self.model.masks import Stream, generator
from self2self.model.network import Self2SelfNet, to_channels_last
from self2self.train.fused_forward import fastest_forward
from self2self.train.prediction import mirrored_passes, predict_plain
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
CROPS, CHECKED_CROPS = 8, 3
"""Largest number of crops to learn from, and number of crops to check with."""
ROUNDS = 2
"""Passes over each crop in each of the mirror orientations. More passes with fewer crops teach no more."""
LEAST_WORTH = 6.0
"""The single pass counts as good if it is as near to the mean of infinitely many passes as the mean of this number of
independent passes is."""
LEAST_DISTANCE = 0.25
"""Distance from the mean of passes, in 8-bit grey levels, that never matters: the standard error at which an ensemble
ends (`runtime.ensemble.pass_plan.TOLERANCE`)."""
LARGEST_EXCESS = 3.0
"""Largest excess of the error at hidden pixels over that of the passes, in standard errors of the difference."""
HIDDEN_SPACING = 5
"""Distance between the hidden pixels of a check along rows and columns."""


@dataclass(frozen=True, slots=True)
class Check:
    """Comparison of the single pass with real passes, on crops of one image.

    Attributes:
        distance: RMS distance from the mean of infinitely many passes, in 8-bit grey levels.
        pass_deviation: RMS standard deviation of a real pass, in 8-bit grey levels.
        excess: mean squared error at hidden pixels minus that of the passes, in standard errors of this difference;
            0 where it is not known.
    """

    distance: float
    pass_deviation: float
    excess: float

    @property
    def worth(self) -> float:
        """Number of independent passes whose mean is as near to the mean of all."""
        return math.inf if self.distance == 0 else (self.pass_deviation / self.distance) ** 2

    @property
    def passed(self) -> bool:
        """Whether the single pass may stand in for the passes."""
        near = self.distance <= LEAST_DISTANCE or self.worth >= LEAST_WORTH
        return near and self.excess <= LARGEST_EXCESS

    @property
    def text(self) -> str:
        """The comparison in a few words."""
        return f"{self.distance:.2f} grey levels from the mean of passes, which differ by {self.pass_deviation:.2f}"

    def to_json(self) -> dict[str, Any]:
        """The attributes as plain values."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


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


def check_single_pass(
    weights: dict[str, Tensor],
    plain_weights: dict[str, Tensor],
    pixels: FloatArray,
    recipe: Recipe,
    *,
    seed: int = 0,
    crops: int = CHECKED_CROPS,
) -> Check:
    """Compare the network without masks with real passes on crops of `pixels` that `calibrate` did not draw.

    Args:
        weights: the fitted weights, for passes with masks.
        plain_weights: from `calibrate`.
        pixels: float32 (C, H, W), the fitted image or another one.
        recipe: of the fit.
        seed: of the crops and the masks of the passes.
        crops: largest number of crops.
    """
    squares = variances = 0.0
    excesses: list[NDArray[np.float64]] = []
    drawn = crops_of(pixels, seed, range(CROPS, CROPS + crops), impulses=recipe.removes_impulses)
    for number, crop in enumerate(drawn):
        passes = np.stack(mirrored_passes(weights, crop, recipe, ROUNDS, seed=seed))
        single = predict_plain(plain_weights, crop, recipe)
        squares += squared_distance(single, passes) / len(drawn)
        variances += _pass_variance(passes) / len(drawn)
        if number == 0:
            excesses.append(_excess_at_hidden(weights, plain_weights, crop, recipe, seed))
    excess = np.concatenate(excesses)
    error = float(excess.std(ddof=1)) / math.sqrt(excess.size) if excess.size > 1 else 0.0
    return Check(
        distance=GREY_LEVELS * math.sqrt(max(0.0, squares)),
        pass_deviation=GREY_LEVELS * math.sqrt(variances),
        excess=float(excess.mean()) / error if error else 0.0,
    )


def squared_distance(single: FloatArray, passes: FloatArray) -> float:
    """Mean squared distance of `single` from the expected value of `passes`, without the variance of their mean.

    Args:
        single: float32 (C, H, W).
        passes: float32 (N, C, H, W); round by round through the mirror orientations.

    Returns:
        an unbiased estimate, which may be negative.
    """
    rounds = passes.reshape(ROUNDS, -1, *single.shape).mean(axis=1)
    first, second = (single - mean for mean in rounds)
    return float(np.mean(first * second, dtype=np.float64))


def _pass_variance(passes: FloatArray) -> float:
    """Mean variance of passes around the mean of all orientations, (N, C, H, W)."""
    return float(passes.var(axis=0, ddof=1).mean(dtype=np.float64))


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
        crops.append(
            np.ascontiguousarray(clip_to_range(remove_outliers(sampler.image[:, rows, columns], impulses=impulses)))
        )
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


def _excess_at_hidden(
    weights: dict[str, Tensor], plain_weights: dict[str, Tensor], crop: FloatArray, recipe: Recipe, seed: int
) -> NDArray[np.float64]:
    """Squared errors of the single pass at hidden pixels minus those of the passes, one value for each pixel value.

    Hidden pixels get the mean of their four neighbours, so neither of the two sees their values. Independent noise adds
    the same to both errors (Batson and Royer 2019, "Noise2Self").
    """
    _, height, width = crop.shape
    rows, columns = (np.arange(HIDDEN_SPACING // 2, side - 1, HIDDEN_SPACING) for side in (height, width))
    chosen = np.ix_(np.arange(len(crop)), rows, columns)
    hidden = crop.copy()
    beside = ((-1, 0), (1, 0), (0, -1), (0, 1))
    around = [crop[:, rows[:, None] + down, columns + right] for down, right in beside]
    hidden[chosen] = np.mean(around, axis=0)
    passes = np.stack(mirrored_passes(weights, hidden, recipe, ROUNDS, seed=seed)).mean(axis=0)[chosen]
    single = predict_plain(plain_weights, hidden, recipe)[chosen]
    truth = crop[chosen].astype(np.float64)
    excess: NDArray[np.float64] = (np.square(single - truth) - np.square(passes - truth)).ravel()
    return excess
