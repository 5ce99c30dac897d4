"""Adam (Kingma and Ba 2015) with PyTorch's arithmetic, but not its class.

The first step of any class in `torch.optim` loads PyTorch's compiler, which nothing here uses: more than a second of
every command that fits, a tenth of the wait on a fast GPU. What the class calls in the end is a function, and that is
called here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

EPSILON = 1e-8
"""That of PyTorch's class."""


class Adam:
    """The same steps as `torch.optim.Adam`, bit for bit.

    Args:
        parameters: what is optimised, or groups of it: dicts with ``"params"`` and what else is known of them.
        learning_rate: of all groups at first.
        betas: decay rates of the two moments.
        fused: whether one kernel updates all parameters.
        capturable: whether steps may become part of a CUDA graph; rates have to be tensors then.

    Attributes:
        param_groups: each with its ``"params"`` and ``"lr"``, a number or a tensor, which may be exchanged.
        state: of each parameter that has had a step: ``"step"``, ``"exp_avg"`` and ``"exp_avg_sq"``, tensors.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        learning_rate: float,
        betas: tuple[float, float],
        *,
        fused: bool = False,
        capturable: bool = False,
    ) -> None:
        given = list(parameters)
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = [{"lr": learning_rate, **group} for group in groups]  # type: ignore[dict-item]
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.capturable = capturable
        self._fused = fused
        self._betas = betas

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._state_of(parameter) for parameter in parameters]
            adam(
                parameters,
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=self._fused or None,
                capturable=self.capturable,
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=group["lr"],
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                # Counted where it is needed: on a GPU for a graph, else on the CPU, which then need not wait for one.
                "step": torch.zeros((), device=parameter.device if self._fused or self.capturable else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]
