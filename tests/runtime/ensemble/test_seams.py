"""Tiles on a photograph, with the start weights: they change the result no more than another seed, without a seam."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from self2self.export.to_onnx import to_onnx
from self2self.image_io import read_image
from self2self.imaging.metrics import psnr
from self2self.model.contract import Contract
from self2self.model.network import Self2SelfNet
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import load_model
from self2self.train.fit import new_state
from self2self.train.recipes import recipe_for
from self2self.train.start_weights import pretrained_weights

EXAMPLES = Path(__file__).parents[3] / "examples"
ROWS, COLUMNS = slice(0, 128), slice(40, 200)
"""Part of the example, which two tiles of 128x128 cover; they overlap by 96 pixels."""
SEAM = slice(64, 96)
"""Columns in which one tile fades into the other."""
OPTIONS = EnsembleOptions(passes=10, balanced=True, flips=False, uncertainty=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Results without tiles, with tiles, and without tiles but with another seed."""
    recipe = recipe_for("fast")
    noisy = read_image(EXAMPLES / "noisy.png", whole_range=True).pixels[:, ROWS, COLUMNS]
    masks = recipe.pass_masks(3)
    network = Self2SelfNet(3, recipe.encoder_width, recipe.decoder_widths, masks[-1].keep_probability)
    network.load_state_dict(new_state(recipe, 3, 0, torch.device("cpu"), pretrained_weights(3, 25.0)).weights())
    path = tmp_path_factory.mktemp("seams") / "model.onnx"
    to_onnx(network.eval(), Contract(3, masks, recipe=recipe.name), path)
    model = load_model(path)
    whole = denoise_pixels(model, noisy, OPTIONS)
    tiles = denoise_pixels(model, noisy, replace(OPTIONS, memory=1))
    other = denoise_pixels(model, noisy, replace(OPTIONS, seed=1))
    assert (whole.tiles, tiles.tiles, tiles.tile) == (1, 2, (128, 128))
    return whole.image, tiles.image, other.image


def test_tiles_are_as_good_as_the_whole(results: tuple[FloatArray, FloatArray, FloatArray]) -> None:
    clean = read_image(EXAMPLES / "clean.png", whole_range=True).pixels[:, ROWS, COLUMNS]
    whole, tiles, _ = (psnr(image, clean) for image in results)
    assert tiles == pytest.approx(whole, abs=0.02)


def test_the_difference_has_no_seam(results: tuple[FloatArray, FloatArray, FloatArray]) -> None:
    whole, tiles, other = results
    energy, of_seed = (np.square(image - whole).mean(axis=(0, 1)) for image in (tiles, other))
    away = np.r_[0 : SEAM.start, SEAM.stop : len(energy)]
    # The difference is noise. Its energy follows the image, as with another seed, and not the cut.
    at_seam = energy[SEAM].mean() / of_seed[SEAM].mean()
    elsewhere = energy[away].mean() / of_seed[away].mean()
    assert 0.5 < at_seam / elsewhere < 1.15
    # There is no step either: neighbouring columns differ at the seam as they do elsewhere.
    steps, of_seeds = (np.square(np.diff(image - whole, axis=2)).mean(axis=(0, 1)) for image in (tiles, other))
    ratio = steps / of_seeds
    assert ratio[SEAM].max() < 1.25 * ratio[away[:-1]].max()
