"""The shipped start weights: without any fit they predict an image for any input, and they adapt recipes by trials."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from self2self.errors import UsageError
from self2self.imaging.metrics import psnr
from self2self.imaging.noise import Noise, measure_noise
from self2self.train import prediction
from self2self.train.prediction import predict
from self2self.train.recipes import RECIPES, recipe_for
from self2self.train.start_weights import (
    FOLDER,
    LITTLE_CORRELATION,
    MOST_TAKEN,
    adapt_recipe,
    predicts_an_image,
    pretrained_files,
    pretrained_weights,
    start_weights_for_recipe,
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
@pytest.mark.parametrize(("drop_rate", "camera"), [(0.1, False), (0.4, False), (0.4, True)])
def test_predictions_stay_near_the_range(pattern: str, colour: str, drop_rate: float, camera: bool) -> None:
    grey = PATTERNS[pattern](np.random.default_rng(0)).astype(np.float32)[None]
    image = COLOURS[colour](grey)
    recipe = RECIPES["fast"].with_options(drop_rate=drop_rate)
    weights = pretrained_weights(len(image), camera)
    prediction = predict(weights, image, recipe, passes=2)
    # For stripes of opposite colours the camera weights predict down to -0.63.
    assert prediction.min() > (-0.7 if camera else -0.6)
    assert prediction.max() < 1.6
    assert predicts_an_image(weights, image, recipe)


def test_all_weights_together_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) <= 6 * 10**6


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_for_camera_noise_differ_in_everything(channels: int) -> None:
    ordinary, of_camera = pretrained_weights(channels), pretrained_weights(channels, camera=True)
    assert pretrained_files(channels, camera=True)[0] == pretrained_files(channels)[0]
    assert {name: tensor.shape for name, tensor in ordinary.items()} == {n: t.shape for n, t in of_camera.items()}
    for name, tensor in ordinary.items():
        change = (of_camera[name] - tensor.float()).norm() / tensor.float().norm()
        assert 0 < change < 2, name


def test_the_noise_chooses_the_weights() -> None:
    with pytest.raises(UsageError, match="no weights for 4 channels"):
        pretrained_files(4, camera=True)
    recipe = RECIPES["fast"]
    camera = recipe.for_noise(Noise(0.5, (0.5, 0.5, 0.5), 0.5, 0.5, 0.5))
    ordinary, of_camera = start_weights_for_recipe(recipe, 3), start_weights_for_recipe(camera, 3)
    assert ordinary is not None
    assert of_camera is not None
    assert not torch.equal(ordinary["head.weight"], of_camera["head.weight"])
    assert start_weights_for_recipe(recipe_for("fast", "scratch"), 3) is None


def test_camera_noise_goes_and_detail_stays() -> None:
    """The camera weights remove more noise than the other weights."""
    rng = np.random.default_rng(0)
    clean = np.stack([0.3 + 0.2 * np.sin(x / 11) * np.cos(y / 7), 0.5 + 0.2 * (x > 40), 0.4 + y / 400])
    clean = clean.astype(np.float32)
    noisy = add_noise(clean, "camera", 8, rng)
    recipe = RECIPES["fast"].with_options(drop_rate=0.4)
    before, *after = (
        float(np.std(image - clean))
        for image in (noisy, *(predict(pretrained_weights(3, camera), noisy, recipe) for camera in (False, True)))
    )
    assert after[1] < 0.65 * before
    assert after[1] < after[0]


def test_weights_that_predict_no_image_are_recognised() -> None:
    weights = pretrained_weights(1)
    weights["head.weight"] = 40 * weights["head.weight"]
    image = np.full((1, 64, 300), 0.5, np.float32)
    assert not predicts_an_image(weights, image, RECIPES["fast"])


def textured(name: str) -> FloatArray:
    from skimage import data

    return np.ascontiguousarray(getattr(data, name)()[100:228, 100:228], np.float32)[None] / 255


@pytest.mark.parametrize("name", ["grass", "gravel"])
def test_texture_that_looks_like_noise_of_neighbours_is_kept(name: str) -> None:
    clean = textured(name)
    noisy = add_noise(clean, "gaussian", 2, np.random.default_rng(7))
    noise = measure_noise(noisy)
    assert noise.correlated
    by_noise = RECIPES["fast"].for_noise(noise)
    chosen = adapt_recipe(RECIPES["fast"], noise, noisy)
    share = chosen.noisy_share
    assert 0.5 < share < 1
    assert chosen == by_noise.for_little_correlation(noisy_share=share)
    assert chosen != by_noise
    assert chosen.rate_of_passes < chosen.input_drop_rate < 0.1
    weights = pretrained_weights(1, camera=True)
    before, after = (np.clip(predict(weights, noisy, r), 0, 1) for r in (by_noise, chosen))
    assert psnr(after, clean) > psnr(before, clean) + 3
    # The share that is given back is nearly the best one.
    scores = [psnr(after + mixed * (noisy - after), clean) for mixed in (share, *np.arange(0, 1.01, 0.1))]
    assert scores[0] > max(scores) - 0.5
    assert scores[0] > scores[1] + 2


def test_detail_that_is_no_more_than_noise_would_be_is_kept() -> None:
    """In a photograph with hardly any noise, hiding much removes less than 1.5 times as much as hiding little."""
    from skimage import data

    clean = np.ascontiguousarray(data.astronaut()[192:320, 192:320].transpose(2, 0, 1), np.float32) / 255
    noisy = add_noise(clean, "gaussian", 2, np.random.default_rng(7))
    noise = measure_noise(noisy)
    assert noise.correlated
    by_noise = RECIPES["fast"].for_noise(noise)
    chosen = adapt_recipe(RECIPES["fast"], noise, noisy)
    assert 0 < chosen.noisy_share < 0.6
    weights = pretrained_weights(3, camera=True)
    before, after = (np.clip(predict(weights, noisy, r), 0, 1) for r in (by_noise, chosen))
    assert np.std(noisy - before) < MOST_TAKEN * np.std(noisy - after)
    assert psnr(after + chosen.noisy_share * (noisy - after), clean) > psnr(before, clean) + 4


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_that_neighbours_share_stays_with_its_own_choice(channels: int) -> None:
    clean = np.stack([0.3 + 0.2 * np.sin(x / 11) * np.cos(y / 7), 0.5 + 0.2 * (x > 40), 0.4 + y / 400])[:channels]
    noisy = add_noise(clean.astype(np.float32), "camera", 8, np.random.default_rng(0))
    noise = measure_noise(noisy)
    assert noise.correlated
    assert adapt_recipe(RECIPES["fast"], noise, noisy) == RECIPES["fast"].for_noise(noise)


def detailed(channels: int) -> FloatArray:
    """Edges, slopes, and a weave that is finer than most structures of an image."""
    weave = 0.03 * np.sin(1.9 * x) * np.sin(1.7 * y) * (x < SIZE // 2)
    planes = [0.4 + 0.2 * np.sin(x / 11) * np.cos(y / 7) + weave, 0.5 + 0.2 * (x > 40) + weave, 0.4 + y / 400 + weave]
    return np.stack(planes)[:channels].astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_impulses_are_independent_whatever_is_between_them(channels: int) -> None:
    from skimage import data

    clean = np.ascontiguousarray(data.astronaut()[192:320, 192:320].transpose(2, 0, 1)[:channels], np.float32) / 255
    noisy = add_noise(clean, "impulse", 10, np.random.default_rng(0))
    noise = measure_noise(noisy)
    assert noise.correlated
    independent = replace(noise, correlation=0.0, horizontal=0.0, vertical=0.0)
    chosen = adapt_recipe(RECIPES["fast"], noise, noisy)
    assert chosen == RECIPES["fast"].for_noise(independent)
    assert chosen.target == "hidden"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [8, 20])
def test_noise_that_neighbours_share_a_little_is_told_from_other_noise(channels: int, sigma: float) -> None:
    clean = detailed(channels)
    rng = np.random.default_rng(3)
    shared = gaussian_filter(rng.normal(size=clean.shape), (0, 0.5, 0.5))
    noisy = (clean + shared * sigma / 255 / shared.std()).astype(np.float32)
    noise = measure_noise(noisy)
    assert LITTLE_CORRELATION < noise.correlation < 0.2
    recipe = RECIPES["fast"]
    chosen = adapt_recipe(recipe, noise, noisy)
    assert chosen == recipe.for_noise(noise).for_little_correlation()
    assert (chosen.target, chosen.camera) == ("simulated", True)

    weaker = replace(noise, sigma=3.0, sigma_by_channel=channels * (3.0,))
    assert adapt_recipe(recipe, weaker, noisy) == recipe.for_noise(weaker)

    # For independent noise the trial rejects the measured correlation.
    for kind in ("gaussian", "poisson", "impulse", "multiplicative", "mixture"):
        independent = add_noise(clean, kind, sigma, rng)
        assert adapt_recipe(recipe, noise, independent) == recipe.for_noise(noise), kind


def grey_of(name: str, top: int, left: int) -> FloatArray:
    from skimage import data

    pixels = np.atleast_3d(getattr(data, name)())
    return np.ascontiguousarray(pixels[top : top + 128, left : left + 128, 0], np.float32)[None] / 255


@pytest.mark.parametrize(("name", "top", "left"), [("rocket", 149, 256), ("brick", 192, 192)])
def test_texture_of_bright_parts_is_no_noise_of_photons(name: str, top: int, left: int) -> None:
    noisy = add_noise(grey_of(name, top, left), "gaussian", 1, np.random.default_rng(0))
    noise = measure_noise(noisy)
    assert noise.signal_dependent
    recipe = RECIPES["fast"]
    chosen = adapt_recipe(recipe, noise, noisy)
    assert chosen == replace(recipe.for_noise(replace(noise, signal_dependent=False)), even_noise=True)
    assert not chosen.camera


def few_photons(photons: int, seed: int) -> FloatArray:
    """Spots on a dark background; the brightest pixel has `photons` photons on average."""
    rng = np.random.default_rng(seed)
    spots = np.full((128, 128), 0.02)
    spots[rng.integers(0, 128, 60), rng.integers(0, 128, 60)] += rng.uniform(5, 60, 60)
    clean = gaussian_filter(spots, 2)
    return np.asarray((rng.poisson(clean / clean.max() * photons) / photons / 2)[None], np.float32)


@pytest.mark.parametrize(("photons", "seed"), [(200, 0), (100, 1)])
def test_noise_of_photons_is(photons: int, seed: int) -> None:
    noisy = few_photons(photons, seed)
    noise = measure_noise(noisy)
    assert noise.signal_dependent
    chosen = adapt_recipe(RECIPES["fast"], noise, noisy)
    assert chosen == RECIPES["fast"].for_noise(noise)
    assert chosen.apply_assessment(noise) == noise


@pytest.mark.parametrize("photons", [10, 20, 60])
def test_where_most_pixels_have_no_photons_there_is_noise_all_the_same(photons: int) -> None:
    noisy = few_photons(photons, 0)
    noise = measure_noise(noisy)
    assert (noise.sigma, noise.signal_dependent) == (0, False)
    chosen = adapt_recipe(RECIPES["fast"], noise, noisy)
    of_photons = replace(noise, signal_dependent=True)
    assert chosen == RECIPES["fast"].for_noise(of_photons)
    assert chosen.camera
    assert chosen.apply_assessment(noise) == of_photons
    assert of_photons.text == "noise in bright parts, and none where there is no light"


@pytest.mark.parametrize("brighter", [0.0, 0.6])
def test_a_picture_without_noise_has_none(brighter: float) -> None:
    picture = np.full((1, 128, 128), 0.2, np.float32)
    picture[:, 40:88, 32:96] += brighter
    noise = measure_noise(picture)
    assert noise.sigma == 0
    chosen = adapt_recipe(RECIPES["fast"], noise, picture)
    assert chosen == RECIPES["fast"].for_noise(noise)
    assert not chosen.camera


def test_trials_run_only_where_noise_is_correlated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "predict", None)
    monkeypatch.setattr(prediction, "hidden_error", None)
    image = textured("grass")
    for correlation, recipe in (
        (0.0, RECIPES["fast"]),
        (0.05, RECIPES["fast"]),
        (0.5, recipe_for("fast", "scratch")),
        (0.5, RECIPES["paper"]),
    ):
        noise = Noise(5.0, (5.0,), correlation, correlation, correlation)
        assert adapt_recipe(recipe, noise, image) == recipe.for_noise(noise)
