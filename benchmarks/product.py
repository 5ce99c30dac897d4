"""Assess noise, and build networks and exported models from fits in memory, as the product does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from self2self.export import export_model
from self2self.export.plain import export_plain
from self2self.imaging.noise import Noise
from self2self.model.contract import Contract
from self2self.model.network import Self2SelfNet
from self2self.runtime.model import Model, load_model
from self2self.train.fit import FitState
from self2self.train.noise_assessment import assess_noise
from self2self.train.recipes import Recipe
from self2self.train.single_pass import transferred
from self2self.train.start_weights import has_pretrained_weights, pretrained_weights

FloatArray = NDArray[np.float32]
Weights = dict[str, torch.Tensor]


LEVEL_WITHOUT_NOISE = 25.0
"""Level that start weights are told where the noise of an image does not matter, in 8-bit grey levels."""


def adapted(recipe: Recipe, noisy: FloatArray) -> tuple[Recipe, Noise | None]:
    """Return `recipe` with the settings for the noise of `noisy` (C, H, W), and the noise; None if it follows none."""
    channels = len(noisy)
    if not recipe.follows_noise or not has_pretrained_weights(channels):
        return recipe, None
    noise = assess_noise(noisy, partial(pretrained_weights, channels), recipe)
    return recipe.for_noise(noise), noise


def start_weights_of(recipe: Recipe, channels: int, noise: Noise | None = None) -> Weights | None:
    """Return the shipped weights from which a fit with `recipe` starts, told the level of `noise`; None for random."""
    if recipe.init != "natural":
        return None
    level = LEVEL_WITHOUT_NOISE if noise is None else noise.told
    return pretrained_weights(channels, level, single_pass=recipe.starts_for_single_pass)


def network_with(weights: Weights, recipe: Recipe, channels: int, *, single_pass: bool = False) -> Self2SelfNet:
    """Return the network of `recipe` for images of `channels` with `weights`, in evaluation mode, on the CPU."""
    keep_probability = 1.0 if single_pass else recipe.pass_masks(channels)[-1].keep_probability
    network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, keep_probability)
    network.load_state_dict(weights)
    return network.eval()


@contextmanager
def exported(
    state: FitState, recipe: Recipe, noise: Noise | None = None, *, single_pass: bool = False
) -> Iterator[Model]:
    """Export the model of a finished fit to an image with `noise`; its file exists until the block ends.

    Args:
        state: the fit, from the start weights for `noise` if the model is for a single pass.
        recipe: of the fit.
        noise: as the product assesses it.
        single_pass: whether the model is the one for a single pass without masks.
    """
    channels = state.network.channels
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        contract = Contract(
            channels,
            recipe.pass_masks(channels),
            recipe=recipe.name,
            steps=state.step,
            noisy_share=0.0 if noise is None else 1 - noise.removed_share,
            removes_impulses=recipe.removes_impulses,
        )
        start = start_weights_of(recipe, channels, noise)
        if single_pass and noise is not None and start is not None:
            single_start = pretrained_weights(channels, noise.told, single_pass=True)
            single = transferred(state.weights(), start, single_start)
            network = network_with(single, recipe, channels, single_pass=True)
            export_plain(network, contract.as_plain(), path)
        else:
            export_model(network_with(state.weights(), recipe, channels), contract, path)
        yield load_model(path)
