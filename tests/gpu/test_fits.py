"""Tests that need a real GPU: fits whose steps are a CUDA graph. Run: make gpu-test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu as benchmark
from self2self.errors import EngineUnavailableError
from self2self.imaging.metrics import psnr
from self2self.train import fit as fit_module
from self2self.train.checkpoint import load_state, save_state
from self2self.train.fit import FitState, fit, new_state
from self2self.train.prediction import predict
from self2self.train.recipes import Recipe, recipe_for
from self2self.train.run_folder import Run
from self2self.train.start_weights import pretrained_weights
from self2self.train.steps import GraphStepRunner, StepRunner
from tests.train.test_fit import image_of
from tests.train.test_run_folder import run

__all__ = ["run"]

RECIPES = {
    "fast": replace(recipe_for("fast"), steps=40),
    "simulated": replace(recipe_for("fast"), steps=40, target="simulated", fitted_share=1.0),
    "paper": replace(recipe_for("paper"), steps=40),
}


@pytest.fixture(scope="module")
def device() -> torch.device:
    try:
        benchmark.require_cuda()
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    return torch.device("cuda")


@pytest.fixture
def noisy() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 140, 150))
    return np.clip(image_of(140, 150) + noise, 0, 1).astype(np.float32)


def state_of(recipe: Recipe, device: torch.device) -> FitState:
    start = pretrained_weights(3, 25.0) if recipe.init == "natural" else None
    return new_state(recipe, 3, 0, device, start)


def losses_of(state: FitState, image: np.ndarray, recipe: Recipe) -> list[float]:
    losses: list[float] = []
    fit(image, recipe, state, on_step=lambda reached: losses.append(reached.loss))
    return losses


@pytest.fixture
def graph_runners(monkeypatch: pytest.MonkeyPatch) -> list[GraphStepRunner]:
    """All instances of `GraphStepRunner` that fits create."""
    instances: list[GraphStepRunner] = []

    class RecordedRunner(GraphStepRunner):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            instances.append(self)

    monkeypatch.setattr("self2self.train.steps.GraphStepRunner", RecordedRunner)
    return instances


@pytest.mark.parametrize("name", RECIPES)
def test_a_graph_computes_the_same_steps_as_the_plain_runner(
    name: str,
    device: torch.device,
    noisy: np.ndarray,
    graph_runners: list[GraphStepRunner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = RECIPES[name]
    graphed = state_of(recipe, device)
    losses = losses_of(graphed, noisy, recipe)
    assert [runner.failure for runner in graph_runners] == [""]
    assert graph_runners[0].recorded
    monkeypatch.setattr(fit_module, "step_runner_for", StepRunner)
    plain = state_of(recipe, device)
    expected = losses_of(plain, noisy, recipe)
    # Some sums of cuDNN have no fixed order, and small differences grow from step to step.
    np.testing.assert_allclose(losses[:8], expected[:8], rtol=0.02)
    np.testing.assert_allclose(np.mean(losses[-10:]), np.mean(expected[-10:]), rtol=0.1)
    got, reference = (predict(state.weights(), noisy, recipe, passes=8) for state in (graphed, plain))
    assert psnr(got, reference) > 35
    if recipe.init == "natural":
        assert psnr(got, image_of(140, 150)) > psnr(noisy, image_of(140, 150)) + 8


def test_an_interrupted_fit_continues_with_the_same_losses(
    device: torch.device, noisy: np.ndarray, run: Run, graph_runners: list[GraphStepRunner]
) -> None:
    recipe = RECIPES["fast"]
    whole = losses_of(state_of(recipe, device), noisy, recipe)
    state = state_of(recipe, device)

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(reached: FitState) -> None:
        if reached.step == 17:
            save_state(run, reached)
            raise Stopped

    with pytest.raises(Stopped):
        fit(noisy, recipe, state, on_step=stop)
    again = state_of(recipe, device)
    load_state(run, again)
    rest = losses_of(again, noisy, recipe)
    assert len(rest) == 40 - 17
    assert graph_runners[-1].recorded
    np.testing.assert_allclose(rest[:5], whole[17:22], rtol=0.02)


def test_a_fit_continues_if_recording_the_graph_fails(
    device: torch.device, noisy: np.ndarray, graph_runners: list[GraphStepRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES["fast"]
    plain = GraphStepRunner._run_static

    def refusing(self: GraphStepRunner) -> torch.Tensor:
        loss = plain(self)
        if torch.cuda.is_current_stream_capturing():
            loss.item()
        return loss

    monkeypatch.setattr(GraphStepRunner, "_run_static", refusing)
    losses = losses_of(state_of(recipe, device), noisy, recipe)
    assert len(losses) == recipe.steps
    assert np.isfinite(losses).all()
    assert graph_runners[0].failure
    assert not graph_runners[0].recorded


def test_device_memory_is_released(device: torch.device, noisy: np.ndarray, tmp_path: Path) -> None:
    recipe = RECIPES["fast"]
    free = []
    for _ in range(4):
        losses_of(state_of(recipe, device), noisy, recipe)
        torch.cuda.empty_cache()
        free.append(torch.cuda.mem_get_info()[0])
    assert free[-1] >= free[1] - 64 * 2**20, free
