"""The shipped start weights: without any fit they predict an image for any input, and they know the level of noise."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from self2self.errors import FileFormatError, UsageError
from self2self.train.prediction import predict
from self2self.train.recipes import RECIPES
from self2self.train.start_weights import (
    CHECKSUMS_FILE,
    PRETRAINED_FILE,
    SINGLE_PASS_FILE,
    check_shipped,
    for_one_channel,
    has_pretrained_weights,
    predicts_an_image,
    pretrained_weights,
)
from self2self.train.synthetic_noise import add_noise

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
@pytest.mark.parametrize(("drop_rate", "sigma"), [(0.02, 1.0), (0.1, 25.0), (0.4, 60.0)])
def test_predictions_stay_near_the_range(pattern: str, colour: str, drop_rate: float, sigma: float) -> None:
    grey = PATTERNS[pattern](np.random.default_rng(0)).astype(np.float32)[None]
    image = COLOURS[colour](grey)
    recipe = RECIPES["fast"].with_options(drop_rate=drop_rate)
    weights = pretrained_weights(len(image), sigma)
    prediction = predict(weights, image, recipe, passes=2)
    assert prediction.min() > -0.8
    assert prediction.max() < 1.8
    assert predicts_an_image(weights, image, recipe)


def test_the_weights_are_small() -> None:
    assert PRETRAINED_FILE.stat().st_size <= 2.1 * 10**6


def test_other_numbers_of_channels_have_none() -> None:
    assert [channels for channels in range(1, 6) if has_pretrained_weights(channels)] == [1, 3]
    with pytest.raises(UsageError, match="no weights for 4 channels"):
        pretrained_weights(4, 25.0)


def test_only_biases_depend_on_the_level_and_they_do_so_linearly() -> None:
    low, middle, high = (pretrained_weights(3, sigma) for sigma in (0.0, 20.0, 40.0))
    for name, tensor in middle.items():
        if name.endswith("bias"):
            torch.testing.assert_close(tensor, (low[name] + high[name]) / 2)
            assert not torch.equal(tensor, low[name])
        else:
            assert torch.equal(tensor, low[name])


@pytest.mark.parametrize("kind", ["gaussian", "poisson", "camera"])
def test_told_more_noise_it_removes_more(kind: str) -> None:
    clean = np.stack([0.3 + 0.2 * np.sin(x / 11) * np.cos(y / 7), 0.5 + 0.2 * (x > 40), 0.4 + y / 400])
    clean = clean.astype(np.float32)
    noisy = add_noise(clean, kind, 15, np.random.default_rng(0))
    recipe = RECIPES["fast"].with_options(drop_rate=0.02)
    left = [
        float(np.std(predict(pretrained_weights(3, sigma), noisy, recipe) - clean)) / float(np.std(noisy - clean))
        for sigma in (1.0, 5.0, 15.0)
    ]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.65


def test_one_channel_is_seen_as_three_equal_ones() -> None:
    grey = add_noise(
        np.full((1, 64, 64), 0.4, np.float32) + x[:64, :64] / 400, "gaussian", 20, np.random.default_rng(0)
    )
    grey = grey.astype(np.float32)
    recipe = RECIPES["fast"].with_options(drop_rate=0.02)
    # All masks keep everything, so that the two networks see the same.
    from self2self.model.network import Self2SelfNet

    predictions = []
    for channels in (1, 3):
        network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, 1.0)
        network.load_state_dict(pretrained_weights(channels, 20.0))
        masks = [torch.ones(1, *spec.shape({"H": 64, "W": 64}), dtype=torch.bool) for spec in recipe.masks(channels)]
        with torch.no_grad():
            predictions.append(network(torch.from_numpy(np.repeat(grey, channels, 0))[None], *masks)[0])
    torch.testing.assert_close(predictions[0][0], predictions[1].mean(0), rtol=0, atol=1e-5)
    slopes = for_one_channel({"stem.conv.weight": torch.ones(4, 6, 3, 3), "head.bias": torch.tensor([1.0, 2.0, 3.0])})
    assert slopes["head.bias"].tolist() == [2.0]


def test_weights_that_predict_no_image_are_recognised() -> None:
    weights = pretrained_weights(1, 25.0)
    weights["head.weight"] = 40 * weights["head.weight"]
    image = np.full((1, 64, 300), 0.5, np.float32)
    assert not predicts_an_image(weights, image, RECIPES["fast"])


def test_the_shipped_weights_are_those_of_the_list() -> None:
    """After new weights: (cd self2self/weights && sha256sum *.safetensors > SHA256SUMS)."""
    files = sorted(CHECKSUMS_FILE.parent.glob("*.safetensors"))
    expected = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    assert CHECKSUMS_FILE.read_text() == expected
    assert {PRETRAINED_FILE, SINGLE_PASS_FILE} == set(files)


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    for path in (PRETRAINED_FILE, CHECKSUMS_FILE):
        shutil.copy(path, tmp_path)
    copy = tmp_path / PRETRAINED_FILE.name
    check_shipped(copy)
    changed = bytearray(copy.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(changed)
    with pytest.raises(FileFormatError, match="is not the file that ships with this version"):
        check_shipped(copy)
