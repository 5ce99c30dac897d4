"""Training samples for correlated noise: a first estimate of the clean image, with simulated noise added.

Where neighbouring pixels share their noise, a network can predict a hidden pixel's noise from its neighbours. A fit
that predicts hidden pixels then learns the noise. So these samples use another pair. The target is the start weights'
estimate of the clean image. The input is the target plus noise that is simulated after the image's own noise
(`noise_model`), similar to Zhang et al. 2022, "IDR: Self-supervised image denoising via iterative data refinement".
The fit cannot learn detail that the first estimate lacks. But it learns this noise, and removes from the image what the
start weights left of it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from self2self.imaging.local_means import LocalMeans
from self2self.model.masks import Stream, generator
from self2self.train.noise_model import noise_model
from self2self.train.prediction import predict
from self2self.train.recipes import Recipe
from self2self.train.samples import CropSampler, TrainingSample

FloatArray = NDArray[np.float32]

PART_SIDE = 128
"""Side of the parts of an image that the fit learns from, in pixels."""
PART_COUNT = 6
"""Number of parts. An image with no more pixels than all parts together is used whole."""
FIRST_ESTIMATE_PASSES = 8
"""Passes whose mean is the target."""
NOISE_MODEL_PASSES = 2
"""Passes of each estimate that the noise model asks for."""


class SimulatedTargetSamples:
    """The samples for correlated noise: the target is a first estimate, the input is the target with simulated noise.

    Args:
        image: float32 (C, H, W) in [0, 1].
        recipe: of the fit.
        start: weights that the fit starts from; samples are on their device.
        seed: of the parts, masks, crops and noise.
    """

    hidden_only = False

    def __init__(self, image: FloatArray, recipe: Recipe, start: dict[str, Tensor], seed: int) -> None:
        noisy_parts = image_parts(image, seed)
        first_estimates = []
        for part in noisy_parts:
            result = np.clip(predict(start, part, recipe, passes=FIRST_ESTIMATE_PASSES, seed=seed), 0, 1)
            means = LocalMeans(part.shape)
            means.see(0, part, result)
            means.restore(result)
            first_estimates.append(result)

        def estimate(pixels: FloatArray, trial: int) -> FloatArray:
            # Masks that the first estimate has not used.
            skip = FIRST_ESTIMATE_PASSES + trial * NOISE_MODEL_PASSES
            return predict(start, pixels, recipe, passes=NOISE_MODEL_PASSES, seed=seed, skip=skip)

        self.model = noise_model(noisy_parts, first_estimates, estimate, seed)
        self._crops = [CropSampler(part, recipe.crop, seed, recipe.orientations) for part in first_estimates]
        self._seed = seed
        self.size = self._crops[0].size
        self._device = next(iter(start.values())).device

    def sample(self, step: int) -> TrainingSample:
        """The sample of 0-based `step`: a crop of the first estimate, with noise that is drawn for this step."""
        rng = generator(self._seed, step, Stream.NOISE)
        crops = self._crops[int(rng.integers(len(self._crops)))]
        rows, columns, loss_region, orientation = crops.window(step)
        target = np.ascontiguousarray(crops.image[:, rows, columns])
        noisy = self.model.simulate(target, rng)
        return TrainingSample(self._tensor(noisy), self._tensor(target), loss_region, orientation)

    def _tensor(self, pixels: FloatArray) -> Tensor:
        return torch.from_numpy(pixels)[None].to(self._device)


def image_parts(image: FloatArray, seed: int) -> list[FloatArray]:
    """`PART_COUNT` random squares with sides of `PART_SIDE` pixels, or the whole image where it has no more pixels.

    A part is narrower than `PART_SIDE` where the image is.
    """
    _, height, width = image.shape
    if height * width <= PART_COUNT * PART_SIDE**2:
        return [image]
    sides = min(PART_SIDE, height), min(PART_SIDE, width)
    rng = generator(seed, 0, Stream.NOISE)
    starts = rng.integers((height - sides[0] + 1, width - sides[1] + 1), size=(PART_COUNT, 2))
    return [image[:, top : top + sides[0], left : left + sides[1]] for top, left in starts]
