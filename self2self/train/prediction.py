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
    predictor = _MaskedPredictor(weights, recipe, image.shape[0], seed)
    for prediction in predictor.passes(image, range(skip, skip + passes)):
        total += prediction
    return (total / passes).astype(np.float32)


def mirrored_passes(
    weights: dict[str, Tensor], image: FloatArray, recipe: Recipe, rounds: int, *, seed: int = 0
) -> list[FloatArray]:
    """Predictions of `rounds` passes in each mirror orientation, float32 (C, H, W) each, all upright again.

    Pass i has orientation i modulo `MIRROR_ORIENTATIONS`; other arguments are those of `predict`.
    """
    predictor = _MaskedPredictor(weights, recipe, image.shape[0], seed)
    by_orientation = []
    for orientation in range(MIRROR_ORIENTATIONS):
        indices = range(orientation, MIRROR_ORIENTATIONS * rounds, MIRROR_ORIENTATIONS)
        made = predictor.passes(oriented(image, orientation), indices)
        by_orientation.append([undo_orientation(prediction, orientation) for prediction in made])
    return [prediction for of_round in zip(*by_orientation, strict=True) for prediction in of_round]


class PlainPredictor:
    """Predicts with a network without masks, which is built once: the mean prediction over mirrored views.

    Args:
        weights: weights of a network of `recipe`; it runs on their device.
        recipe: of the fit.
    """

    def __init__(self, weights: dict[str, Tensor], recipe: Recipe) -> None:
        channels, self._device = len(weights["head.bias"]), next(iter(weights.values())).device
        network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, 1.0)
        network.load_state_dict(weights)
        self._forward = fastest_forward(to_channels_last(network, self._device), recipe)

    @torch.no_grad()
    def __call__(self, image: FloatArray) -> FloatArray:
        """float32 (C, H, W), not clamped, of float32 (C, H, W); values outside [0, 1] count as its nearest end."""
        _, height, width = image.shape
        padding = Padding.for_size(height, width)
        padded = torch.from_numpy(np.ascontiguousarray(padding.pad(clip_to_range(image))))[None].to(self._device)
        mirrorings = mirrorings_for(height * width)
        views = [undo_orientation(self._forward(oriented(padded, mirroring)), mirroring) for mirroring in mirrorings]
        mean: FloatArray = torch.stack(views).mean(0)[0].cpu().numpy()
        return np.ascontiguousarray(padding.crop(mean))


class _MaskedPredictor:
    """Predicts with a network with masks, which is built once; it runs on the device of its weights."""

    def __init__(self, weights: dict[str, Tensor], recipe: Recipe, channels: int, seed: int) -> None:
        self._specs, self._seed, self._device = recipe.pass_masks(channels), seed, next(iter(weights.values())).device
        keep = self._specs[-1].keep_probability
        network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, keep)
        network.load_state_dict(weights)
        self._forward = fastest_forward(to_channels_last(network, self._device), recipe)

    @torch.no_grad()
    def passes(self, image: FloatArray, indices: range) -> Iterator[FloatArray]:
        """The prediction of each pass, float32 (C, H, W)."""
        padding = Padding.for_size(*image.shape[1:])
        padded = torch.from_numpy(np.ascontiguousarray(padding.pad(clip_to_range(image))))[None].to(self._device)
        maker = MaskMaker(self._specs, {"H": padded.shape[2], "W": padded.shape[3]}, self._seed)
        for index in indices:
            masks = [torch.from_numpy(mask).to(self._device) for mask in maker.make(index, 1).values()]
            yield padding.crop(self._forward(padded, *masks)[0].cpu().numpy())
