"""The mean of a few passes, straight from weights in memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from self2self.extremes import within_range
from self2self.masks import MaskMaker
from self2self.padding import Padding
from self2self.train.lean import fastest
from self2self.train.network import Self2SelfNet, placed
from self2self.train.recipes import Recipe

FloatArray = NDArray[np.float32]


@torch.no_grad()
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
    channels, height, width = image.shape
    specs = recipe.pass_masks(channels)
    padding = Padding.for_size(height, width)
    device = next(iter(weights.values())).device
    padded = torch.from_numpy(np.ascontiguousarray(padding.pad(within_range(image))))[None].to(device)
    network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, specs[-1].keep_probability)
    network.load_state_dict(weights)
    computes = fastest(placed(network, device), recipe)
    maker = MaskMaker(specs, {"H": padded.shape[2], "W": padded.shape[3]}, seed)
    total = np.zeros(padded.shape[1:], np.float64)
    for index in range(skip, skip + passes):
        masks = [torch.from_numpy(mask).to(device) for mask in maker.make(index, 1).values()]
        total += computes(padded, *masks)[0].cpu().numpy()
    return padding.crop((total / passes).astype(np.float32))
