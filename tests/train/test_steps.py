"""Steps that are made for speed are those that learn from each example: on a CPU, and as a CUDA graph needs them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from self2self.train import fit as fit_module
from self2self.train import fused_forward as lean_module
from self2self.train.fit import FitState, fit, new_state
from self2self.train.recipes import RECIPES as RECIPES_OF_USERS
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
    recipe: Recipe, image: np.ndarray, kind: type[StepRunner], monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    monkeypatch.setattr(fit_module, "step_runner_for", lambda *given: kind(*given))
    start = start_weights() if recipe.target == "simulated" else None
    losses: list[float] = []

    def note(state: FitState) -> None:
        losses.append(state.loss)

    fit(image, recipe, new_state(recipe, 3, 0, CPU, start), seed=3, on_step=note)
    return losses


# 40x50 is padded on every side, and what is padding must not count.
@pytest.mark.parametrize("size", [(64, 64), (96, 80), (40, 50)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", RECIPES)
def test_losses_are_those_of_plain_steps(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_of(*size) + np.random.default_rng(0).normal(0, 0.1, (3, *size)).astype(np.float32)
    plain = losses_of(RECIPES[name], image, StepRunner, monkeypatch)
    still = losses_of(RECIPES[name], image, StaticStepRunner, monkeypatch)
    assert len(plain) == RECIPES[name].steps
    np.testing.assert_allclose(still, plain, rtol=1e-3)
    # The first step shows both networks the same, before rounding has gone anywhere.
    np.testing.assert_allclose(still[0], plain[0], rtol=1e-6)


def test_rates_may_be_tensors() -> None:
    """What a graph reads each time is a tensor, which the schedule fills."""
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
def test_what_a_cpu_takes_are_the_steps_of_the_network(
    name: str, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the lean network, and rounded on CPUs that gain by it."""
    monkeypatch.setattr(lean_module, "multiplies_bfloat16", lambda: True)
    recipe = replace(RECIPES[name], rounds_products=rounds)
    image = image_of(96, 80) + np.random.default_rng(0).normal(0, 0.1, (3, 96, 80)).astype(np.float32)
    plain = losses_of(recipe, image, StepRunner, monkeypatch)
    lean = losses_of(recipe, image, step_runner_for, monkeypatch)  # type: ignore[arg-type]
    np.testing.assert_allclose(lean[0], plain[0], rtol=1e-2 if rounds else 1e-5)
    np.testing.assert_allclose(lean, plain, rtol=5e-2 if rounds else 1e-3)
    assert (abs(lean[0] / plain[0] - 1) > 1e-6) == rounds


def test_only_fast_rounds_and_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name for name, recipe in RECIPES_OF_USERS.items() if recipe.rounds_products} == {"fast"}
    assert recipe_for("fast", "scratch").rounds_products
    state = new_state(TINY, 3, 0, CPU)
    types = []
    monkeypatch.setattr(lean_module, "FusedTrainingForward", lambda network, dtype: types.append(dtype))
    for rounds in (True, False):
        for able in (True, False):
            monkeypatch.setattr(lean_module, "multiplies_bfloat16", lambda able=able: able)
            step_runner_for(state.network, state.optimiser, replace(TINY, rounds_products=rounds), True)
    assert types == [torch.bfloat16, torch.float32, torch.float32, torch.float32]
