"""What a fit learns from where neighbouring pixels share their noise: to take noise like the image's own away.

There, a hidden pixel's noise can be predicted from its neighbours, and a fit that predicts hidden pixels learns the
noise. So another pair is made: what the start weights make of the image is taken for a clean image, noise is added that
is simulated after the image's own (`noise_model`), and the fit learns to find the first from the second (like Zhang et
al. 2022, "IDR: Self-supervised image denoising via iterative data refinement"). What the first result lacks, the fit
does not learn; but it gets to know this noise, and removes from the image what the start weights left of it.
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
"""Pixels a side of the parts of an image that the fit learns from."""
PART_COUNT = 6
"""Of an image that has more pixels than so many parts, so many are taken."""
FIRST_PASSES = 8
TRIAL_PASSES = 2


class SimulatedTargetSamples:
    """The lessons where noise is correlated: a first result of the image, seen through noise like the image's own.

    Args:
        image: float32 (C, H, W) in [0, 1].
        recipe: of the fit.
        start: weights that it starts from.
        seed: of what is random.
    """

    hidden_only = False

    def __init__(self, image: FloatArray, recipe: Recipe, start: dict[str, Tensor], seed: int) -> None:
        noisy = image_parts(image, seed)
        first = []
        for part in noisy:
            result = np.clip(predict(start, part, recipe, passes=FIRST_PASSES, seed=seed), 0, 1)
            means = LocalMeans(part.shape)
            means.see(0, part, result)
            means.restore(result)
            first.append(result)

        def estimate(pixels: FloatArray, trial: int) -> FloatArray:
            # With other masks than the first result.
            skip = FIRST_PASSES + trial * TRIAL_PASSES
            return predict(start, pixels, recipe, passes=TRIAL_PASSES, seed=seed, skip=skip)

        self.model = noise_model(noisy, first, estimate, seed)
        self._crops = [CropSampler(part, recipe.crop, seed, recipe.orientations) for part in first]
        self._seed = seed
        self.size = self._crops[0].size
        self._device = next(iter(start.values())).device

    def sample(self, step: int) -> TrainingSample:
        """That of 0-based `step`: a crop of the first result, seen with new noise."""
        rng = generator(self._seed, step, Stream.NOISE)
        crops = self._crops[int(rng.integers(len(self._crops)))]
        rows, columns, inside, orientation = crops.window(step)
        wanted = np.ascontiguousarray(crops.image[:, rows, columns])
        seen = self.model.simulate(wanted, rng)
        return TrainingSample(self._tensor(seen), self._tensor(wanted), inside, orientation)

    def _tensor(self, pixels: FloatArray) -> Tensor:
        return torch.from_numpy(pixels)[None].to(self._device)


def image_parts(image: FloatArray, seed: int) -> list[FloatArray]:
    """`PART_COUNT` random squares of `PART_SIDE` pixels a side; the image itself where it has no more pixels."""
    _, height, width = image.shape
    if height * width <= PART_COUNT * PART_SIDE**2:
        return [image]
    sides = min(PART_SIDE, height), min(PART_SIDE, width)
    rng = generator(seed, 0, Stream.NOISE)
    starts = rng.integers((height - sides[0] + 1, width - sides[1] + 1), size=(PART_COUNT, 2))
    return [image[:, top : top + sides[0], left : left + sides[1]] for top, left in starts]
