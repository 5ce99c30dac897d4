"""The mean of a few passes, straight from weights in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from self2self.imaging.outliers import clip_to_range
from self2self.imaging.padding import Padding
from self2self.model.contract import INPUT_MASK
from self2self.model.masks import BoolArray, MaskMaker
from self2self.model.network import Self2SelfNet, to_channels_last
from self2self.train.fused_forward import fastest_forward
from self2self.train.recipes import Recipe

FloatArray = NDArray[np.float32]


def predict(
    weights: dict[str, Tensor], image: FloatArray, recipe: Recipe, *, passes: int = 4, seed: int = 0, skip: int = 0
) -> FloatArray:
    """Quick look at the result: the mean of a few passes.

    Args:
        weights: of a network of `recipe`; the look is taken on the device where they are.
        image: float32 (C, H, W).
        recipe: of the fit.
        passes: how many.
        seed: of the masks.
        skip: passes of that seed to leave out first, for other masks.

    Returns:
        float32 (C, H, W), not clamped.
    """
    total = np.zeros(image.shape, np.float64)
    for prediction, _ in _passes(weights, image, recipe, range(skip, skip + passes), seed):
        total += prediction
    return (total / passes).astype(np.float32)


def hidden_error(
    weights: dict[str, Tensor], image: FloatArray, recipe: Recipe, *, passes: int = 4, seed: int = 0
) -> float:
    """Mean squared error of predictions for the values that are hidden from them; 0 where none is.

    Noise that pixels do not share adds its variance to the error of every predictor alike, so the one that has least
    is nearest to the clean image (Batson and Royer 2019, "Noise2Self", proposition 1).

    Args:
        weights: as for `predict`, as is what follows.
        image: float32 (C, H, W).
        recipe: of the fit; its passes hide values.
        passes: how many.
        seed: of the masks.
    """
    image = clip_to_range(image)
    total, count = 0.0, 0
    for prediction, seen in _passes(weights, image, recipe, range(passes), seed):
        total += float(np.square(prediction - image, dtype=np.float64)[~seen].sum())
        count += int(np.count_nonzero(~seen))
    return total / max(1, count)


@torch.no_grad()
def _passes(
    weights: dict[str, Tensor], image: FloatArray, recipe: Recipe, indices: range, seed: int
) -> Iterator[tuple[FloatArray, BoolArray]]:
    """Predictions, and which values of the image each has seen, both (C, H, W)."""
    channels, height, width = image.shape
    specs = recipe.pass_masks(channels)
    padding = Padding.for_size(height, width)
    device = next(iter(weights.values())).device
    padded = torch.from_numpy(np.ascontiguousarray(padding.pad(clip_to_range(image))))[None].to(device)
    network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, specs[-1].keep_probability)
    network.load_state_dict(weights)
    computes = fastest_forward(to_channels_last(network, device), recipe)
    maker = MaskMaker(specs, {"H": padded.shape[2], "W": padded.shape[3]}, seed)
    for index in indices:
        made = maker.make(index, 1)
        masks = [torch.from_numpy(mask).to(device) for mask in made.values()]
        prediction = computes(padded, *masks)[0].cpu().numpy()
        yield padding.crop(prediction), padding.crop(made[INPUT_MASK][0])
