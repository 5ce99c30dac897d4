"""A fit whose samples have simulated noise that is like the image's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from self2self.errors import UsageError
from self2self.imaging.metrics import psnr
from self2self.imaging.noise import Noise, NoiseKind
from self2self.train import fit as fit_module
from self2self.train.checkpoint import load_state, save_state
from self2self.train.fit import fit, new_state
from self2self.train.prediction import predict
from self2self.train.recipes import recipe_for
from self2self.train.run_folder import Run
from self2self.train.simulated_targets import PART_COUNT, PART_SIDE, SimulatedTargetSamples, image_parts
from self2self.train.start_weights import pretrained_weights
from self2self.train.steps import StepRunner
from self2self.train.synthetic_noise import add_noise
from tests.train.test_fit import CPU, TINY, image_of, same_weights
from tests.train.test_run_folder import run

__all__ = ["run"]

SIMULATED = replace(TINY, init="natural", target="simulated", crop=64, orientations=8)


def start_weights(seed: int = 5, channels: int = 3) -> dict[str, torch.Tensor]:
    """Weights that have learnt next to nothing, so that they remove nearly all of an image and of its noise."""
    recipe = replace(TINY, steps=8)
    return fit(image_of(64, 64, channels), recipe, new_state(recipe, channels, seed, CPU)).weights()


def noisy_of(height: int, width: int, channels: int = 3) -> np.ndarray:
    return add_noise(image_of(height, width, channels), "correlated", 12, np.random.default_rng(height))


def test_samples_are_the_first_estimate_with_noise_of_their_own() -> None:
    samples = SimulatedTargetSamples(noisy_of(70, 90), SIMULATED, start_weights(), seed=1)
    assert samples.size == (64, 64)
    first, second, again = samples.sample(0), samples.sample(1), samples.sample(0)
    assert torch.equal(first.input_image, again.input_image)
    assert torch.equal(first.target, again.target)
    assert first.input_image.shape == first.target.shape == (1, 3, 64, 64)
    assert first.input_image.dtype == first.target.dtype == torch.float32
    assert not torch.equal(first.input_image - first.target, second.input_image - second.target)
    assert float((first.input_image - first.target).std()) > 2 / 255
    other_seed = SimulatedTargetSamples(noisy_of(70, 90), SIMULATED, start_weights(), seed=2)
    assert not torch.equal(other_seed.sample(0).input_image, first.input_image)


def test_an_error_counts_everywhere_and_not_in_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of one step equals a plain formulation."""
    # The runner that calls the network itself, so that hooks get its input and output.
    monkeypatch.setattr(fit_module, "step_runner_for", StepRunner)
    recipe = replace(SIMULATED, steps=1, orientations=1, decoder_drop_rate=0.0)
    noisy = noisy_of(40, 50)
    start = start_weights()
    input_image, target, (rows, columns), *_ = SimulatedTargetSamples(noisy, recipe, start, seed=0).sample(0)
    losses: list[float] = []

    state = new_state(recipe, 3, 0, CPU, start)
    state.network.register_forward_hook(
        lambda network, arguments, output: losses.append(
            float((output - target)[:, :, rows, columns].square().mean().detach())
        )
    )
    state.network.register_forward_pre_hook(
        lambda network, arguments: torch.testing.assert_close(arguments[0], input_image)
    )
    fit(noisy, recipe, state)
    assert target[:, :, rows, columns].shape == (1, 3, 40, 50)
    assert losses == [pytest.approx(state.loss, rel=1e-5)]


def test_continuing_takes_the_same_bits_as_never_stopping(run: Run) -> None:
    noisy, start = noisy_of(64, 64), start_weights()
    half = fit(noisy, replace(SIMULATED, steps=2), new_state(SIMULATED, 3, 0, CPU, start))
    save_state(run, half)
    restored = new_state(SIMULATED, 3, 0, CPU)
    load_state(run, restored)
    recipe = replace(SIMULATED, schedule="constant")
    assert same_weights(fit(noisy, recipe, restored), fit(noisy, recipe, half))
    assert restored.step == SIMULATED.steps


def test_without_start_weights_it_is_refused_and_without_a_step_nothing_is_done() -> None:
    with pytest.raises(UsageError, match="it has none"):
        fit(noisy_of(64, 64), SIMULATED, new_state(SIMULATED, 3, 0, CPU))
    start = start_weights()
    state = fit(noisy_of(64, 64), replace(SIMULATED, steps=0), new_state(SIMULATED, 3, 0, CPU, start))
    assert all(torch.equal(tensor, start[name]) for name, tensor in state.weights().items())


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (9, 100, 3), (33, 65, 4)])
def test_any_size_and_values_beyond_the_range(height: int, width: int, channels: int) -> None:
    image = noisy_of(height, width, channels)
    image[:, 2, 3] = 5
    recipe = replace(SIMULATED, steps=1)
    state = fit(image, recipe, new_state(recipe, channels, 0, CPU, start_weights(channels=channels)))
    assert np.isfinite(state.loss)
    assert state.loss < 2, "the value outside the range has reached the network"


def test_of_a_large_image_some_parts_are_taken() -> None:
    small = np.zeros((1, PART_SIDE, PART_COUNT * PART_SIDE), np.float32)
    assert image_parts(small, seed=0)[0] is small
    large = np.arange(3000 * 700, dtype=np.float32).reshape(1, 3000, 700)
    parts = image_parts(large, seed=0)
    assert [part.shape for part in parts] == [(1, PART_SIDE, PART_SIDE)] * PART_COUNT
    assert len({float(part[0, 0, 0]) for part in parts}) == PART_COUNT
    assert not np.array_equal(parts[0], image_parts(large, seed=1)[0])
    narrow = np.zeros((1, 10, 100_000), np.float32)
    assert [part.shape for part in image_parts(narrow, seed=0)] == [(1, 10, PART_SIDE)] * PART_COUNT


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_it_removes_what_the_start_weights_leave(channels: int) -> None:
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:128, :128]
    shapes = np.where((x // 32 + y // 32) % 2, 0.3, 0.6) + 0.05 * np.sin(x / 6)
    clean = np.repeat(shapes[None], channels, 0).astype(np.float32)
    noisy = add_noise(clean, "camera", 12, rng)
    recipe = recipe_for("fast").for_noise(Noise(12.0, 12.0, 2.0, 0.5, NoiseKind.CORRELATED))
    assert recipe.target == "simulated"
    start = pretrained_weights(channels, 12.0)
    before = new_state(recipe, channels, 0, CPU, start).weights()
    after = fit(noisy, recipe, new_state(recipe, channels, 0, CPU, start)).weights()
    scores = [psnr(np.clip(predict(w, noisy, recipe), 0, 1), clean) for w in (before, after)]
    assert scores[1] > scores[0] + 0.3, scores
