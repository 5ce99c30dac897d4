"""A prediction is the mean of plain passes, however it is computed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from self2self.imaging.padding import Padding
from self2self.model.masks import MaskMaker
from self2self.model.network import Self2SelfNet
from self2self.train import fused_forward
from self2self.train.prediction import predict
from self2self.train.recipes import RECIPES
from self2self.train.start_weights import pretrained_weights

FAST = RECIPES["fast"]


def plain_mean(weights: dict[str, torch.Tensor], image: np.ndarray, passes: range, seed: int) -> np.ndarray:
    specs = FAST.pass_masks(len(image))
    network = Self2SelfNet(len(image), FAST.encoder_width, FAST.decoder_widths, specs[-1].keep_probability)
    network.load_state_dict(weights)
    padding = Padding.for_size(*image.shape[1:])
    padded = padding.pad(np.clip(image, 0, 1))
    maker = MaskMaker(specs, {"H": padded.shape[1], "W": padded.shape[2]}, seed)
    results = []
    for index in passes:
        masks = [torch.from_numpy(mask.copy()) for mask in maker.make(index, 1).values()]
        with torch.no_grad():
            results.append(network(torch.from_numpy(padded)[None], *masks)[0].numpy())
    return padding.crop(np.mean(results, axis=0))


@pytest.mark.parametrize("size", [(64, 96), (50, 71)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rounds", [False, True], ids=["float32", "bfloat16"])
def test_a_prediction_is_the_mean_of_plain_passes(
    size: tuple[int, int], channels: int, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_forward, "multiplies_bfloat16", lambda: True)
    image = np.random.default_rng(0).uniform(-0.1, 1.1, (channels, *size)).astype(np.float32)
    weights = pretrained_weights(channels, 25.0)
    recipe = replace(FAST, rounds_products=rounds)
    result = predict(weights, image, recipe, passes=3, seed=5, skip=2)
    assert (result.shape, result.dtype) == (image.shape, np.float32)
    difference = np.abs(result - plain_mean(weights, image, range(2, 5), 5))
    if rounds:
        # bfloat16 rounds to 1/256 of the largest values of a pass.
        assert 1e-4 < difference.max() < 0.03
        assert difference.mean() < 0.003
    else:
        assert difference.max() < 2e-5
