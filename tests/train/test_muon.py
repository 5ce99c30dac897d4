"""Muon against plain formulations of its parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from self2self.errors import FileFormatError
from self2self.train.checkpoint import load_state, save_state
from self2self.train.fit import FitState, fit, new_state
from self2self.train.muon import ITERATIONS, QUINTIC, Muon, orthogonalised
from self2self.train.run_folder import Run
from tests.conftest import build_fitted
from tests.train.test_fit import CPU, TINY, image_of, same_weights

MUON = replace(TINY, matrix_rate=0.02)


def random_matrix(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))


@pytest.mark.parametrize(("rows", "columns"), [(5, 40), (40, 5), (12, 12), (1, 9)])
def test_orthogonalised_equals_the_plain_iteration(rows: int, columns: int) -> None:
    matrix = random_matrix(rows, columns)
    plain = (matrix / matrix.norm()).double()
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = plain @ plain.T
        plain = a * plain + (b * gram + c * gram @ gram) @ plain
    torch.testing.assert_close(orthogonalised(matrix).double(), plain, rtol=1e-3, atol=1e-4)


def test_every_direction_gets_about_the_same_length_and_keeps_its_sign() -> None:
    matrix = random_matrix(16, 60) * torch.logspace(0, -1, 16)[:, None]
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    lengths = torch.diag(left.T @ orthogonalised(matrix) @ right.T)
    assert float(lengths.min()) > 0.6
    assert float(lengths.max()) < 1.3


def test_zero_gradient_is_no_step() -> None:
    assert torch.equal(orthogonalised(torch.zeros(3, 9)), torch.zeros(3, 9))


def test_biases_and_the_last_convolution_take_adams_step() -> None:
    networks = [build_fitted().network for _ in range(2)]
    optimisers = [Muon(networks[0], 1e-3, 0.1, (0.9, 0.999)), torch.optim.Adam(networks[1].parameters(), 1e-3)]
    for network, optimiser in zip(networks, optimisers, strict=True):
        for _ in range(3):
            for index, parameter in enumerate(network.parameters()):
                parameter.grad = torch.full_like(parameter, 0.01 * (1 + index))
            optimiser.step()
    ours, adams = (dict(network.named_parameters()) for network in networks)
    same = {name for name in ours if torch.equal(ours[name], adams[name])}
    assert same == {name for name in ours if name.endswith("bias") or name.startswith("head.")}


def test_the_schedule_scales_both_rates() -> None:
    state = new_state(MUON, 3, 0, CPU)
    rates: list[list[float]] = []
    fit(image_of(64, 64), MUON, state, on_step=lambda s: rates.append([g["lr"] for g in s.optimiser.param_groups]))
    assert rates[0] == pytest.approx([0.02, TINY.learning_rate])
    assert rates[-1][0] / rates[-1][1] == pytest.approx(0.02 / TINY.learning_rate)
    assert rates[-1][0] < 0.1 * rates[0][0]


def test_a_fit_that_continued_from_its_state_has_the_same_bits(tmp_path: Path) -> None:
    image = image_of(64, 64)
    whole = fit(image, MUON, new_state(MUON, 3, 0, CPU))
    state = new_state(MUON, 3, 0, CPU)

    def save(current: FitState) -> None:
        if current.step == 3:
            save_state(Run(tmp_path), current)

    fit(image, MUON, state, on_step=save)
    again = new_state(MUON, 3, 0, CPU)
    load_state(Run(tmp_path), again)
    assert again.step == 3
    assert same_weights(fit(image, MUON, again), whole)


def test_a_state_of_muon_is_refused_by_a_fit_with_adam(tmp_path: Path) -> None:
    save_state(Run(tmp_path), fit(image_of(64, 64), MUON, new_state(MUON, 3, 0, CPU)))
    with pytest.raises(FileFormatError, match="exp_avg_sq"):
        load_state(Run(tmp_path), new_state(TINY, 3, 0, CPU))


def test_learns_sooner_than_adam_from_random_weights() -> None:
    rows, columns = np.mgrid[:64, :64]
    image = np.repeat((0.5 + 0.4 * np.sin(rows / 3) * np.cos(columns / 4))[None], 3, 0).astype(np.float32)
    losses = {}
    for name, recipe in {"adam": TINY, "muon": replace(MUON, matrix_rate=0.05)}.items():
        by_step: list[float] = []
        recipe = replace(recipe, steps=24)
        fit(image, recipe, new_state(recipe, 3, 0, CPU), on_step=lambda s, by_step=by_step: by_step.append(s.loss))
        losses[name] = np.mean(by_step[-6:])
    assert losses["muon"] < 0.8 * losses["adam"]
