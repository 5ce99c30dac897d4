"""Predicts with weights that are in memory: the mean of a few passes, without export or engine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from self2self.imaging.orientation import MIRROR_ORIENTATIONS, oriented, undo_orientation
from self2self.imaging.outliers import clip_to_range
from self2self.imaging.padding import Padding
from self2self.model.masks import MaskMaker
from self2self.model.network import Self2SelfNet, to_channels_last
from self2self.model.plain import mirrorings_for
from self2self.train.fused_forward import fastest_forward
from self2self.train.recipes import Recipe

FloatArray = NDArray[np.float32]


def predict(
    weights: dict[str, Tensor], image: FloatArray, recipe: Recipe, *, passes: int = 4, seed: int = 0, skip: int = 0
) -> FloatArray:
    """A quick result: the mean of a few passes.

    Args:
        weights: weights of a network of `recipe`; passes run on their device.
        image: float32 (C, H, W); values outside [0, 1] count as its nearest end.
        recipe: of the fit.
        passes: number of passes.
        seed: seed of the masks.
        skip: index of the first pass; other passes have other masks.

    Returns:
        float32 (C, H, W), not clamped.
    """
    total = np.zeros(image.shape, np.float64)
    for prediction in _passes(weights, image, recipe, range(skip, skip + passes), seed):
        total += prediction
    return (total / passes).astype(np.float32)


def mirrored_passes(
    weights: dict[str, Tensor], image: FloatArray, recipe: Recipe, rounds: int, *, seed: int = 0
) -> list[FloatArray]:
    """Predictions of `rounds` passes in each mirror orientation, float32 (C, H, W) each, all upright again.

    Pass i has orientation i modulo `MIRROR_ORIENTATIONS`; other arguments are those of `predict`.
    """
    by_orientation = []
    for orientation in range(MIRROR_ORIENTATIONS):
        indices = range(orientation, MIRROR_ORIENTATIONS * rounds, MIRROR_ORIENTATIONS)
        made = _passes(weights, oriented(image, orientation), recipe, indices, seed)
        by_orientation.append([undo_orientation(prediction, orientation) for prediction in made])
    return [prediction for of_round in zip(*by_orientation, strict=True) for prediction in of_round]


@torch.no_grad()
def predict_plain(weights: dict[str, Tensor], image: FloatArray, recipe: Recipe) -> FloatArray:
    """The mean prediction of a network without masks over mirrored views; else as `predict`."""
    channels, height, width = image.shape
    padding = Padding.for_size(height, width)
    device = next(iter(weights.values())).device
    network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, 1.0)
    network.load_state_dict(weights)
    forward = fastest_forward(to_channels_last(network, device), recipe)
    padded = torch.from_numpy(padding.pad(clip_to_range(image)))[None].to(device)
    views = [
        undo_orientation(forward(oriented(padded, mirroring)), mirroring) for mirroring in mirrorings_for(height, width)
    ]
    mean: FloatArray = torch.stack(views).mean(0)[0].cpu().numpy()
    return np.ascontiguousarray(padding.crop(mean))


@torch.no_grad()
def _passes(
    weights: dict[str, Tensor], image: FloatArray, recipe: Recipe, indices: range, seed: int
) -> Iterator[FloatArray]:
    """The prediction of each pass, float32 (C, H, W)."""
    channels, height, width = image.shape
    specs = recipe.pass_masks(channels)
    padding = Padding.for_size(height, width)
    device = next(iter(weights.values())).device
    padded = torch.from_numpy(np.ascontiguousarray(padding.pad(clip_to_range(image))))[None].to(device)
    network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, specs[-1].keep_probability)
    network.load_state_dict(weights)
    forward = fastest_forward(to_channels_last(network, device), recipe)
    maker = MaskMaker(specs, {"H": padded.shape[2], "W": padded.shape[3]}, seed)
    for index in indices:
        masks = [torch.from_numpy(mask).to(device) for mask in maker.make(index, 1).values()]
        yield padding.crop(forward(padded, *masks)[0].cpu().numpy())
