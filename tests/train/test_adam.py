"""Our Adam takes the same steps as PyTorch's class, and does not load PyTorch's compiler."""

import subprocess
import sys

import pytest
import torch

from self2self.train.adam import Adam

SHAPES = [(4, 3, 3, 3), (4,), (), (5, 7)]
BETAS = (0.8, 0.99)


def parameters() -> list[torch.nn.Parameter]:
    draws = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=draws)) for shape in SHAPES]


def give_gradients(to: list[torch.nn.Parameter], step: int) -> None:
    """Set gradients of very different sizes; the second parameter has none in the first step."""
    draws = torch.Generator().manual_seed(step)
    for index, parameter in enumerate(to):
        gradient = torch.randn(parameter.shape, generator=draws) * 10.0 ** (index - 2)
        parameter.grad = None if step == 0 and index == 1 else gradient


@pytest.mark.parametrize("fused", [True, False])
def test_steps_are_those_of_pytorchs_class(fused: bool) -> None:
    ours, theirs = parameters(), parameters()
    optimisers = Adam(ours, 1e-2, BETAS, fused=fused), torch.optim.Adam(theirs, 1e-2, BETAS, fused=fused)
    for step in range(6):
        for optimiser, moved in zip(optimisers, (ours, theirs), strict=True):
            give_gradients(moved, step)
            optimiser.param_groups[0]["lr"] = 1e-2 / (1 + step)
            optimiser.step()
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    for our_parameter, their_parameter in zip(ours, theirs, strict=True):
        our_state, their_state = (
            optimiser.state[parameter]
            for optimiser, parameter in zip(optimisers, (our_parameter, their_parameter), strict=True)
        )
        assert {key: (value.dtype, value.device) for key, value in our_state.items()} == {
            key: (value.dtype, value.device) for key, value in their_state.items()
        }
        assert all(torch.equal(our_state[key], their_state[key]) for key in our_state)


def test_groups_have_rates_of_their_own_and_keep_their_further_entries() -> None:
    fast, slow = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimiser = Adam([{"params": [fast], "rate_scale": 3.0}, {"params": [slow]}], 0.1, BETAS)
    assert [group["lr"] for group in optimiser.param_groups] == [0.1, 0.1]
    optimiser.param_groups[0]["lr"] *= optimiser.param_groups[0]["rate_scale"]
    fast.grad, slow.grad = torch.ones(3), torch.ones(3)
    optimiser.step()
    # Adam's first step changes each value by the rate.
    torch.testing.assert_close(fast.data, torch.full((3,), 0.7))
    torch.testing.assert_close(slow.data, torch.full((3,), 0.9))


def test_gradients_are_forgotten() -> None:
    moved = parameters()
    optimiser = Adam(moved, 0.1, BETAS)
    give_gradients(moved, 1)
    optimiser.zero_grad()
    assert [parameter.grad for parameter in moved] == [None] * len(moved)
    before = [parameter.detach().clone() for parameter in moved]
    optimiser.step()
    assert all(torch.equal(*pair) for pair in zip(moved, before, strict=True))


@pytest.mark.parametrize("matrix_rate", [None, 0.01])
def test_a_fit_loads_no_compiler(matrix_rate: float | None) -> None:
    program = f"""
import sys, torch, numpy
from dataclasses import replace
from self2self.train.fit import fit, new_state
from self2self.train.recipes import recipe_for
recipe = replace(recipe_for("fast", "scratch"), steps=2, matrix_rate={matrix_rate}, encoder_width=4,
                 decoder_widths=(4, 4, 4, 4, 4))
fit(numpy.full((1, 64, 64), 0.5, numpy.float32), recipe, new_state(recipe, 1, 0, torch.device("cpu")))
print(sorted({{"torch._dynamo", "torch._inductor", "sympy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
