"""A prediction is the mean of plain passes, however it is computed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from self2self.imaging.padding import Padding
from self2self.model.masks import MaskMaker
from self2self.model.network import Self2SelfNet
from self2self.train import fused_forward
from self2self.train.prediction import hidden_error, predict
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


def test_the_error_of_hidden_values_is_that_of_plain_passes() -> None:
    image = np.random.default_rng(0).uniform(-0.1, 1.1, (1, 50, 71)).astype(np.float32)
    clipped = np.clip(image, 0, 1)
    weights = pretrained_weights(1, 7.5)
    recipe = replace(FAST, pass_drop_rate=0.2)
    specs = recipe.pass_masks(1)
    padding = Padding.for_size(*image.shape[1:])
    maker = MaskMaker(specs, {"H": 64, "W": 96}, 3)
    errors: list[float] = []
    for index in range(2):
        visible = padding.crop(maker.make(index, 1)[specs[0].name][0])
        prediction = predict(weights, image, recipe, passes=1, seed=3, skip=index)
        errors += [float(prediction[tuple(at)] - clipped[tuple(at)]) ** 2 for at in np.argwhere(~visible)]
    assert hidden_error(weights, image, recipe, passes=2, seed=3) == pytest.approx(np.mean(errors), rel=1e-5)
    # Without hidden values the error is 0.
    assert hidden_error(weights, image[:, :1, :1], replace(FAST, pass_drop_rate=0.0), passes=1) == 0


def test_noise_adds_the_same_to_the_error_of_every_predictor() -> None:
    """So the errors rank predictors as a clean image would."""
    y, x = np.mgrid[:96, :96]
    clean = (0.5 + 0.2 * np.sin(x / 9) * np.cos(y / 6))[None].astype(np.float32)
    noise = np.random.default_rng(1).normal(0, 0.03, clean.shape).astype(np.float32)
    good = pretrained_weights(1, 7.5)
    poor = {name: tensor * (0.97 if name == "head.weight" else 1) for name, tensor in good.items()}
    recipe = replace(FAST, pass_drop_rate=0.2)
    errors = {name: hidden_error(w, clean + noise, recipe) for name, w in (("good", good), ("poor", poor))}
    variance = float(np.var(noise))
    assert variance < errors["good"] < 1.2 * variance
    truth = {
        name: np.mean([np.square(predict(w, clean + noise, recipe, passes=1, skip=i) - clean) for i in range(4)])
        for name, w in (("good", good), ("poor", poor))
    }
    assert errors["poor"] - errors["good"] == pytest.approx(truth["poor"] - truth["good"], rel=0.2)
