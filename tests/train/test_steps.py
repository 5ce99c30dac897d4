"""The fast forms of a training step compute what the plain step computes: on a CPU, and as a CUDA graph needs it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from self2self.train import fit as fit_module
from self2self.train import fused_forward as fused_module
from self2self.train.fit import FitState, fit, new_state
from self2self.train.recipes import RECIPES as SHIPPED_RECIPES
from self2self.train.recipes import Recipe, recipe_for
from self2self.train.steps import StaticStepRunner, StepRunner, step_runner_for
from tests.train.test_fit import CPU, TINY, image_of
from tests.train.test_simulated_targets import SIMULATED, start_weights

RECIPES = {
    "hidden": replace(TINY, orientations=8, crop=64),
    "hidden, l1": replace(TINY, loss="l1"),
    "Muon": replace(TINY, matrix_rate=0.02, orientations=4),
    "simulated": replace(SIMULATED, matrix_rate=0.01),
}


def losses_of(
    recipe: Recipe, image: np.ndarray, runner_class: type[StepRunner], monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    monkeypatch.setattr(fit_module, "step_runner_for", lambda *arguments: runner_class(*arguments))
    start = start_weights() if recipe.target == "simulated" else None
    losses: list[float] = []

    def note(state: FitState) -> None:
        losses.append(state.loss)

    fit(image, recipe, new_state(recipe, 3, 0, CPU, start), seed=3, on_step=note)
    return losses


# 40x50 is padded on every side, and the padding must not count.
@pytest.mark.parametrize("size", [(64, 64), (96, 80), (40, 50)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", RECIPES)
def test_losses_are_those_of_plain_steps(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_of(*size) + np.random.default_rng(0).normal(0, 0.1, (3, *size)).astype(np.float32)
    plain = losses_of(RECIPES[name], image, StepRunner, monkeypatch)
    static = losses_of(RECIPES[name], image, StaticStepRunner, monkeypatch)
    assert len(plain) == RECIPES[name].steps
    np.testing.assert_allclose(static, plain, rtol=1e-3)
    # In the first step both networks are the same; rounding separates them later.
    np.testing.assert_allclose(static[0], plain[0], rtol=1e-6)


def test_rates_may_be_tensors() -> None:
    """A graph reads the rate from a tensor, which the schedule fills."""
    recipe = replace(TINY, matrix_rate=0.02)
    states = [new_state(recipe, 3, 0, CPU) for _ in range(2)]
    for group in states[1].optimiser.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]))
    for state in states:
        fit(image_of(64, 64), recipe, state)
    assert all(isinstance(group["lr"], torch.Tensor) for group in states[1].optimiser.param_groups)
    first, second = (state.weights() for state in states)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_graph_is_for_gpus_alone() -> None:
    state = new_state(TINY, 3, 0, CPU)
    assert type(step_runner_for(state.network, state.optimiser, TINY, True)) is StepRunner


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("rounds", [False, True], ids=["float32", "bfloat16"])
def test_fused_steps_on_a_cpu_are_the_steps_of_the_network(
    name: str, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, and in bfloat16 on CPUs that gain by it."""
    monkeypatch.setattr(fused_module, "multiplies_bfloat16", lambda: True)
    recipe = replace(RECIPES[name], rounds_products=rounds)
    image = image_of(96, 80) + np.random.default_rng(0).normal(0, 0.1, (3, 96, 80)).astype(np.float32)
    plain = losses_of(recipe, image, StepRunner, monkeypatch)
    fused = losses_of(recipe, image, step_runner_for, monkeypatch)  # type: ignore[arg-type]
    np.testing.assert_allclose(fused[0], plain[0], rtol=1e-2 if rounds else 1e-5)
    np.testing.assert_allclose(fused, plain, rtol=5e-2 if rounds else 1e-3)
    assert (abs(fused[0] / plain[0] - 1) > 1e-6) == rounds


def test_only_fast_rounds_and_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name for name, recipe in SHIPPED_RECIPES.items() if recipe.rounds_products} == {"fast"}
    assert recipe_for("fast", "scratch").rounds_products
    state = new_state(TINY, 3, 0, CPU)
    types = []
    monkeypatch.setattr(fused_module, "FusedTrainingForward", lambda network, dtype: types.append(dtype))
    for rounds in (True, False):
        for able in (True, False):
            monkeypatch.setattr(fused_module, "multiplies_bfloat16", lambda able=able: able)
            step_runner_for(state.network, state.optimiser, replace(TINY, rounds_products=rounds), True)
    assert types == [torch.bfloat16, torch.float32, torch.float32, torch.float32]
