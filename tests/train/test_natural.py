"""The start weights that ship: what they predict, before any fit, is an image, whatever they are shown."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from self2self.train.fit import predict
from self2self.train.natural import natural_weights, predict_an_image
from self2self.train.recipes import RECIPES

SIZE = 96
FloatArray = NDArray[np.float32]
y, x = np.mgrid[:SIZE, :SIZE]

PATTERNS: dict[str, Callable[[np.random.Generator], NDArray[np.floating]]] = {
    "black": lambda rng: np.zeros((SIZE, SIZE)),
    "white": lambda rng: np.ones((SIZE, SIZE)),
    "noise": lambda rng: rng.random((SIZE, SIZE)),
    "black and white pixels": lambda rng: (rng.random((SIZE, SIZE)) < 0.5) * 1.0,
    "salt": lambda rng: (rng.random((SIZE, SIZE)) < 0.01) * 1.0,
    "an edge": lambda rng: (x > SIZE // 2) * 1.0,
    "fine stripes": lambda rng: y % 2 * 1.0,
    "stripes": lambda rng: y // 3 % 2 * 1.0,
    "fine checks": lambda rng: (x + y) % 2 * 1.0,
    "checks": lambda rng: (x // 8 + y // 8) % 2 * 1.0,
    "a disk": lambda rng: (np.hypot(x - 48, y - 48) < 30) * 1.0,
    "a star": lambda rng: np.exp(-((x - 40) ** 2 + (y - 50) ** 2) / 4),
    "waves": lambda rng: 0.5 + 0.5 * np.sin(x * x / 60),
    "strong noise": lambda rng: np.clip(0.5 + rng.normal(0, 0.4, (SIZE, SIZE)), 0, 1),
    "some noise cut off": lambda rng: np.clip(0.5 + rng.normal(0, 0.25, (SIZE, SIZE)), 0, 1),
}
COLOURS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "grey": lambda image: image,
    "equal channels": lambda image: np.repeat(image, 3, 0),
    "red and green": lambda image: np.concatenate([image, 1 - image, 0 * image]),
    "channels apart": lambda image: np.concatenate([image, 1 - image, image.transpose(0, 2, 1)]),
}


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("drop_rate", [0.1, 0.4])
def test_predictions_stay_near_the_range(pattern: str, colour: str, drop_rate: float) -> None:
    grey = PATTERNS[pattern](np.random.default_rng(0)).astype(np.float32)[None]
    image = COLOURS[colour](grey)
    recipe = RECIPES["fast"].with_options(drop_rate=drop_rate)
    weights = natural_weights(len(image))
    prediction = predict(weights, image, recipe, passes=2)
    assert prediction.min() > -0.6
    assert prediction.max() < 1.6
    assert predict_an_image(weights, image, recipe)


def test_weights_that_predict_no_image_are_recognised() -> None:
    weights = natural_weights(1)
    weights["head.weight"] = 40 * weights["head.weight"]
    image = np.full((1, 64, 300), 0.5, np.float32)
    assert not predict_an_image(weights, image, RECIPES["fast"])
