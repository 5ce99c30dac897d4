"""Makes the network that gives in one pass, without masks, what the mean of its passes gives.

A network that was fitted with dropout sees other activations when dropout is switched off, and predicts worse than the
mean of passes (Li et al. 2019, "Understanding the disharmony between dropout and batch normalization by variance
shift"). There are two ways to mend that:

- A fit that started from the start weights takes no further step. There are start weights for passes without masks,
  too, and what the fit has added to its own is added to those (`transferred`).
- Any other fit is calibrated: the network without masks learns to predict the mean of passes over mirrored images, on
  crops of the fitted image (`calibrate`). It learns from the passes alone, which have removed the noise already, so it
  needs no hidden pixels and cannot memorise the noise.

Crops of the image then show whether the single pass is as good as the passes (`Check`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from self2self.imaging.noise import GREY_LEVELS
from self2self.train.calibration import CROPS, ROUNDS, calibrate, crops_of
from self2self.train.checkpoint import load_weights, save_model
from self2self.train.prediction import PlainPredictor, mirrored_passes
from self2self.train.recipes import Recipe
from self2self.train.run_folder import Run
from self2self.train.session import fit_memory_errors, shipped_start_weights, told_level
from self2self.train.start_weights import pretrained_weights

FloatArray = NDArray[np.float32]

CHECKED_CROPS = 2
"""Number of crops to check with."""

LEAST_WORTH = 6.0
"""A calibrated single pass counts as good if it is as near to the mean of infinitely many passes as the mean of this
number of independent passes is."""
LARGEST_DEPARTURE = 0.16
"""A transferred single pass counts as good if its distance from the mean of passes is at most this share of what the
passes remove. It is a better estimate than the mean of passes as often as a worse one, so it need not be near. The
share is at most 0.1 for images like the fitted one, and 0.17 to 0.46 where much stronger noise than that of the fit
makes the single pass worse (dev/log)."""
LEAST_DISTANCE, LEAST_DEPARTURE = 0.25, 2.0
"""Distances from the mean of passes, in 8-bit grey levels, that never matter for a calibrated and for a transferred
single pass. The first is the standard error at which an ensemble ends (`runtime.ensemble.pass_plan.TOLERANCE`)."""


@dataclass(frozen=True, slots=True)
class Check:
    """Comparison of the single pass with real passes, on crops of one image.

    Attributes:
        distance: RMS distance from the mean of infinitely many passes, in 8-bit grey levels.
        pass_deviation: RMS standard deviation of a real pass, in 8-bit grey levels.
        removed: RMS of what the passes remove, in 8-bit grey levels.
        transferred: whether the single pass was transferred, not calibrated.
    """

    distance: float
    pass_deviation: float
    removed: float
    transferred: bool

    @property
    def worth(self) -> float:
        """Number of independent passes whose mean is as near to the mean of all."""
        return math.inf if self.distance == 0 else (self.pass_deviation / self.distance) ** 2

    @property
    def passed(self) -> bool:
        """Whether the single pass may stand in for the passes."""
        if self.transferred:
            return self.distance <= max(LEAST_DEPARTURE, LARGEST_DEPARTURE * self.removed)
        return self.distance <= LEAST_DISTANCE or self.worth >= LEAST_WORTH

    @property
    def text(self) -> str:
        """The comparison in a few words."""
        return f"{self.distance:.2f} grey levels from the mean of passes, which differ by {self.pass_deviation:.2f}"

    def to_json(self) -> dict[str, Any]:
        """The attributes as plain values."""
        return {key: round(value, 4) for key, value in asdict(self).items()}


def transferred(
    weights: dict[str, Tensor], start: dict[str, Tensor], single_start: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Weights for a single pass, of a fit that started from the start weights.

    What a fit adds to its start weights is also right for other start weights of the same network (Ilharco et al. 2023,
    "Editing models with task arithmetic").

    Args:
        weights: the fitted weights, for passes with masks.
        start: the start weights of the fit.
        single_start: the start weights for a single pass.
    """
    return {name: tensor.cpu() + (single_start[name] - start[name]) for name, tensor in weights.items()}


def make_single_pass(run: Run, pixels: FloatArray, on_step: Callable[[int], None] = lambda step: None) -> None:
    """Make the weights of `run` for a single pass without masks, and keep them in the run folder.

    Args:
        run: run folder of a finished fit.
        pixels: float32 (C, H, W), the fitted image, for a calibration.
        on_step: called after every step of a calibration with the number of steps so far; an exception ends it.

    Raises:
        InputError, FileFormatError: the weights of the fit cannot be read.
        ResourceError, OutputError: memory ran out, or the weights cannot be written.
    """
    config = run.config()
    weights, recipe, contract = load_weights(run.model_path)
    with fit_memory_errors():
        start = shipped_start_weights(config)
        if start is None:
            single = calibrate(weights, pixels, recipe, seed=contract.seed, on_step=on_step)
        else:
            single_start = pretrained_weights(config.channels, told_level(config), single_pass=True)
            single = transferred(weights, start, single_start)
    save_model(run.plain_path, single, recipe, contract.as_plain())


@dataclass(frozen=True)
class BothWeights:
    """The weights of a fit for passes with masks, and those for its single pass.

    Attributes:
        masked: for passes with masks.
        single: for the single pass.
        recipe: of the fit.
        transferred: whether `single` is from `transferred`, not from `calibrate`.
    """

    masked: dict[str, Tensor]
    single: dict[str, Tensor]
    recipe: Recipe
    transferred: bool

    @classmethod
    def of(cls, run: Run) -> BothWeights:
        """The weights of `run`, after `make_single_pass`.

        Raises:
            InputError, FileFormatError: they cannot be read.
        """
        masked, recipe, _ = load_weights(run.model_path)
        single, _, _ = load_weights(run.plain_path)
        return cls(masked, single, recipe, shipped_start_weights(run.config()) is not None)

    def check(self, pixels: FloatArray, *, seed: int = 0, crops: int = CHECKED_CROPS) -> Check:
        """Compare the two on crops of `pixels`, as `check_single_pass` does."""
        return check_single_pass(
            self.masked, self.predictor, pixels, self.recipe, transferred=self.transferred, seed=seed, crops=crops
        )

    @cached_property
    def predictor(self) -> PlainPredictor:
        """The network of the single pass, built once for all images."""
        return PlainPredictor(self.single, self.recipe)


def check_single_pass(
    weights: dict[str, Tensor],
    single: PlainPredictor,
    pixels: FloatArray,
    recipe: Recipe,
    *,
    transferred: bool = False,
    seed: int = 0,
    crops: int = CHECKED_CROPS,
) -> Check:
    """Compare the network without masks with real passes on crops of `pixels` that `calibrate` did not draw.

    Args:
        weights: the fitted weights, for passes with masks.
        single: predicts with the weights for the single pass, from `transferred` or `calibrate`.
        pixels: float32 (C, H, W), the fitted image or another one.
        recipe: of the fit.
        transferred: whether these weights are from `transferred`.
        seed: of the crops and the masks of the passes.
        crops: largest number of crops.
    """
    distances, variances, removed = [], [], []
    for crop in crops_of(pixels, seed, range(CROPS, CROPS + crops), impulses=recipe.removes_impulses):
        passes = np.stack(mirrored_passes(weights, crop, recipe, ROUNDS, seed=seed))
        distances.append(squared_distance(single(crop), passes))
        variances.append(_pass_variance(passes))
        removed.append(float(np.square(passes.mean(axis=0) - crop).mean(dtype=np.float64)))
    distance, deviation, taken = (
        GREY_LEVELS * math.sqrt(np.maximum(0.0, np.mean(squares))) for squares in (distances, variances, removed)
    )
    return Check(distance, deviation, taken, transferred)


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
