"""The fit on networks and images so small that a step takes milliseconds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from self2self.errors import UsageError
from self2self.imaging.metrics import psnr
from self2self.imaging.orientation import oriented
from self2self.model.contract import mask_specs
from self2self.train import fit as fit_module
from self2self.train.fit import FitState, StepMasks, fit, learning_rate, new_state
from self2self.train.prediction import predict
from self2self.train.recipes import Recipe, recipe_for
from self2self.train.samples import CropSampler

CPU = torch.device("cpu")
TINY = Recipe(
    "tiny",
    steps=6,
    input_drop_rate=0.4,
    decoder_drop_rate=0.2,
    scratch_scheme="kaiming",
    loss="l2",
    learning_rate=3e-3,
    schedule="cosine",
    average_decay=0.9,
    encoder_width=4,
    decoder_widths=(6, 6, 6, 6, 4),
)


def image_of(height: int, width: int, channels: int = 3) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    smooth = 0.5 + 0.3 * np.sin(rows / 9) * np.cos(columns / 7)
    return np.repeat(smooth[None], channels, 0).astype(np.float32)


def fitted(recipe: Recipe, image: np.ndarray, seed: int = 0) -> FitState:
    return fit(image, recipe, new_state(recipe, image.shape[0], seed, CPU), seed=seed)


def same_weights(one: FitState, other: FitState) -> bool:
    a, b = one.weights(), other.weights()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_same_seed_same_bits_and_other_seed_other_bits() -> None:
    image = image_of(64, 64)
    assert same_weights(fitted(TINY, image), fitted(TINY, image))
    assert not same_weights(fitted(TINY, image), fitted(TINY, image, seed=1))


def test_a_hot_pixel_has_no_part_in_a_fit() -> None:
    image = image_of(64, 64)
    hot = image.copy()
    hot[1, 20, 30] = 11
    image[1, 20, 30] = np.median(np.delete(image[1, 19:22, 29:32].ravel(), 4))
    assert same_weights(fitted(TINY, hot), fitted(TINY, image))
    assert hot[1, 20, 30] == 11


def test_global_randomness_neither_used_nor_changed() -> None:
    image = image_of(64, 64)
    torch.manual_seed(1)
    first = fitted(TINY, image)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same_weights(first, fitted(TINY, image))
    assert torch.equal(before, torch.get_rng_state())


def test_first_step_equals_a_plain_formulation() -> None:
    """One step of Adam in plain terms: loss over hidden values, bias-corrected moments, constant rate."""
    recipe = replace(TINY, steps=1, loss="l1", schedule="constant", average_decay=None, learning_rate=4e-4)
    image = image_of(64, 64)
    state = new_state(recipe, 3, 0, CPU)
    before = {name: p.detach().clone() for name, p in state.network.named_parameters()}
    input_mask, *dropout = StepMasks(recipe.masks(3), (64, 64), 0, CPU).make(0)
    target = torch.from_numpy(image)[None]
    loss = (state.network(target, input_mask, *dropout) - target)[~input_mask].abs().mean()
    gradients = torch.autograd.grad(loss, list(state.network.parameters()))
    fit(image, recipe, state, seed=0)
    assert state.loss == pytest.approx(loss.item(), rel=1e-5)
    for (name, parameter), gradient in zip(state.network.named_parameters(), gradients, strict=True):
        # After one step the corrected moments are the gradient and its square.
        expected = before[name] - 4e-4 * gradient / (gradient.abs() + 1e-8)
        # Smaller gradients differ by rounding, which Adam's first step enlarges.
        certain = gradient.abs() > 1e-6
        assert torch.allclose(parameter[certain], expected[certain], atol=2e-6), name


def test_masks_of_a_step_are_fair_and_lie_as_activations_do() -> None:
    masks = StepMasks(mask_specs(3, 48, (96,) * 5, 0.4, 0.1), (64, 96), 0, CPU).make(3)
    assert [tuple(mask.shape) for mask in masks[-2:]] == [(1, 144, 64, 96), (1, 96, 64, 96)]
    for mask, keep in zip(masks, [0.6, *[0.9] * 10], strict=True):
        assert mask.dtype == torch.bool
        assert mask.is_contiguous(memory_format=torch.channels_last)
        size = mask.numel()
        assert abs(mask.float().mean().item() - keep) < 0.002 + 5 * (keep * (1 - keep) / size) ** 0.5


def test_masks_of_several_samples_of_a_step_are_those_of_as_many_steps() -> None:
    def masks_of(step: int, count: int) -> list[torch.Tensor]:
        made = StepMasks(mask_specs(3, 4, (4,) * 5, 0.4, 0.1), (64, 64), 0, CPU).make(step, count)
        return [mask.clone() for mask in made]

    for together, *apart in zip(masks_of(2, 3), *(masks_of(step, 1) for step in (6, 7, 8)), strict=True):
        assert torch.equal(together, torch.cat(apart))


def test_several_steps_equal_adam_and_an_average_written_out() -> None:
    recipe = replace(TINY, steps=4, average_decay=0.6)
    image = image_of(64, 64)
    state = new_state(recipe, 3, 0, CPU)
    names = [name for name, _ in state.network.named_parameters()]
    weights = [p.detach().clone().double() for p in state.network.parameters()]
    average = [w.clone() for w in weights]
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]

    def on_step(state: FitState) -> None:
        rate = recipe.learning_rate * (1 + math.cos(math.pi * (state.step - 1) / 4)) / 2
        decay = min(0.6, state.step / (state.step + 9))
        for index, parameter in enumerate(state.network.parameters()):
            assert parameter.grad is not None
            first, second = moments[index]
            first.lerp_(parameter.grad.double(), 1 - recipe.betas[0])
            second.lerp_(parameter.grad.double() ** 2, 1 - recipe.betas[1])
            corrected = first / (1 - recipe.betas[0] ** state.step)
            scale = (second / (1 - recipe.betas[1] ** state.step)).sqrt() + 1e-8
            weights[index] -= rate * corrected / scale
            average[index] = decay * average[index] + (1 - decay) * weights[index]

    fit(image, recipe, state, on_step=on_step)
    assert state.average is not None
    kept = state.weights()
    for name, expected in zip(names, average, strict=True):
        torch.testing.assert_close(kept[name].double(), expected, atol=2e-6, rtol=0)


@pytest.mark.slow
def test_fit_removes_noise_and_keeps_the_mean() -> None:
    """Dropout without its rescaling, a classic bug, would change the brightness."""
    clean = image_of(64, 64)
    noisy = (clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)
    recipe = replace(TINY, steps=120, encoder_width=12, decoder_widths=(12,) * 5)
    state = fitted(recipe, noisy)
    result = predict(state.weights(), noisy, recipe, passes=30)
    assert psnr(result, clean) > psnr(noisy, clean) + 4
    assert float(result.mean()) == pytest.approx(float(noisy.mean()), abs=0.01)


def test_on_step_sees_every_step_and_may_end_the_fit() -> None:
    class EnoughError(Exception):
        pass

    seen: list[int] = []

    def on_step(state: FitState) -> None:
        seen.append(state.step)
        if state.step == 3:
            raise EnoughError

    state = new_state(TINY, 3, 0, CPU)
    with pytest.raises(EnoughError):
        fit(image_of(64, 64), TINY, state, on_step=on_step)
    assert seen == [1, 2, 3]
    fit(image_of(64, 64), TINY, state, on_step=lambda s: seen.append(s.step))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert same_weights(state, fitted(TINY, image_of(64, 64)))


def test_quality_term_is_weighted_and_gets_gradients() -> None:
    recipe = replace(TINY, steps=1, quality_weight=10.0)
    image = image_of(64, 64)
    plain = fitted(recipe, image)
    steered = new_state(recipe, 3, 0, CPU)
    shapes = []

    def brightness(prediction: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(prediction.shape))
        return prediction.square().mean()

    fit(image, recipe, steered, seed=0, quality=brightness)
    assert shapes == [(1, 3, 64, 64)]
    assert steered.loss > plain.loss
    assert not same_weights(plain, steered)


def test_start_weights_are_used_and_foreign_ones_refused() -> None:
    first = fitted(TINY, image_of(64, 64))
    again = new_state(TINY, 3, 0, CPU, first.weights())
    assert same_weights(first, again)
    with pytest.raises(UsageError, match="another recipe or another number of channels"):
        new_state(TINY, 1, 0, CPU, first.weights())
    with pytest.raises(UsageError, match="another recipe"):
        new_state(recipe_for("paper"), 3, 0, CPU, first.weights())


def test_cosine_falls_from_the_peak_to_near_zero_and_constant_stays() -> None:
    rates = [learning_rate(TINY, step) for step in range(TINY.steps)]
    assert rates[0] == TINY.learning_rate
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.1 * rates[0]
    assert {learning_rate(recipe_for("paper"), step) for step in (0, 17, 3999)} == {4e-4}


def test_any_size_can_be_fitted_and_predicted() -> None:
    for size in ((8, 8), (65, 33), (100, 31)):
        image = image_of(*size, channels=1)
        recipe = replace(TINY, steps=1, crop=64)
        assert predict(fitted(recipe, image).weights(), image, recipe).shape == image.shape


def test_a_turned_step_equals_a_plain_step_on_the_turned_image() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((3, 64, 64)).astype(np.float32)
    recipe = replace(TINY, steps=1, orientations=8)
    orientation = CropSampler(image, None, 3, 8).window(0).orientation
    assert orientation >= 4
    other = np.ascontiguousarray(oriented(torch.from_numpy(image)[None], orientation)[0].numpy())
    one = fit(image, recipe, new_state(recipe, 3, 0, CPU), seed=3)
    two = fit(other, replace(recipe, orientations=1), new_state(recipe, 3, 0, CPU), seed=3)
    assert one.loss == pytest.approx(two.loss, rel=1e-5)
    for (name, a), b in zip(one.network.named_parameters(), two.network.parameters(), strict=True):
        # Adam's first step is the sign of the gradient, which rounding may change where the gradient is nearly 0.
        assert (~torch.isclose(a, b, atol=1e-5)).float().mean() < 0.01, name


def test_weights_for_inference_lie_between_start_and_fit() -> None:
    image = image_of(64, 64)
    start = fitted(TINY, image, seed=5).weights()
    recipe = replace(TINY, fitted_share=0.25)
    whole = fit(image, TINY, new_state(TINY, 3, 0, CPU, start)).weights()
    part = fit(image, recipe, new_state(recipe, 3, 0, CPU, start)).weights()
    for name, tensor in part.items():
        assert torch.allclose(tensor, 0.75 * start[name] + 0.25 * whole[name], atol=1e-6), name
    assert not same_weights(fitted(TINY, image), new_state(recipe, 3, 0, CPU, start))


def test_random_weights_are_never_mixed_in() -> None:
    image = image_of(64, 64)
    assert same_weights(fitted(replace(TINY, fitted_share=0.25), image), fitted(TINY, image))


def diverging_at(step: int, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """Let the optimiser leap in the step after `step` steps, and keep good weights every two steps."""
    monkeypatch.setattr(fit_module, "GOOD_STEPS", 2)
    monkeypatch.setattr(
        fit_module, "learning_rate", lambda recipe, done: rate if done == step else recipe.learning_rate
    )


@pytest.mark.parametrize("rate", [math.inf, 1e30, 1e4])
@pytest.mark.parametrize("average", [None, 0.9])
def test_a_fit_that_diverges_ends_with_its_last_good_weights(
    rate: float, average: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, image = replace(TINY, schedule="constant", steps=9, average_decay=average), image_of(64, 64)
    expected = fitted(replace(recipe, steps=4), image)
    seen: list[int] = []
    diverging_at(5, monkeypatch, rate)
    state = new_state(recipe, 3, 0, CPU)
    fit(image, recipe, state, on_step=lambda state: seen.append(state.step))
    assert state.step == 4
    assert state.diverged_step in (6, 7)
    assert same_weights(state, expected)
    # A checkpoint is written after a step, and it has to be one to go on from.
    assert seen[-1] == state.diverged_step - 1


def test_a_fit_that_diverges_at_once_falls_back_to_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_of(64, 64)
    start = fitted(TINY, image).weights()
    diverging_at(0, monkeypatch, math.inf)
    state = fit(image, TINY, new_state(TINY, 3, 0, CPU, start))
    assert (state.step, state.diverged_step) == (0, 1)
    assert all(torch.equal(tensor, start[name]) for name, tensor in state.weights().items())
    with pytest.raises(UsageError, match=r"diverged at step 1 of 6, before it had learnt anything"):
        fitted(TINY, image)


def test_a_fit_from_random_weights_may_begin_with_a_large_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_module, "GOOD_STEPS", 1)
    state = new_state(TINY, 3, 0, CPU)
    with torch.no_grad():
        state.network.head.bias.fill_(30.0)
    assert fit(image_of(64, 64), TINY, state).diverged_step is None
