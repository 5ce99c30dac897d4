"""Steps on tensors that stay where they are, as a CUDA graph needs them, are the steps that learn from each example."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from self2self.train import fit as fit_module
from self2self.train.fit import FitState, fit, new_state
from self2self.train.recipes import Recipe
from self2self.train.steps import Steps, StillSteps, steps_for
from tests.train.test_fit import CPU, TINY, image_of
from tests.train.test_rehearsal import SIMULATED, start_weights

RECIPES = {
    "hidden": replace(TINY, orientations=8, crop=64),
    "hidden, l1": replace(TINY, loss="l1"),
    "Muon": replace(TINY, matrix_rate=0.02, orientations=4),
    "simulated": replace(SIMULATED, matrix_rate=0.01),
}


def losses_of(recipe: Recipe, image: np.ndarray, kind: type[Steps], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setattr(fit_module, "steps_for", lambda *given: kind(*given))
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
    plain = losses_of(RECIPES[name], image, Steps, monkeypatch)
    still = losses_of(RECIPES[name], image, StillSteps, monkeypatch)
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
    assert type(steps_for(state.network, state.optimiser, TINY, True)) is Steps
