"""Adam (Kingma and Ba 2015) with PyTorch's arithmetic, but without PyTorch's optimiser class.

The first step of any class in `torch.optim` loads PyTorch's compiler, which nothing here uses. Loading takes more than
a second of every command that fits, a tenth of the wait on a fast GPU. This class calls the same function as PyTorch's
class does in the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

EPSILON = 1e-8
"""The default of PyTorch's class."""


class Adam:
    """Takes the same steps as `torch.optim.Adam`, bit for bit.

    Args:
        parameters: the parameters to optimise, or groups of them: dicts with ``"params"`` and any further entries,
            which `param_groups` keeps.
        learning_rate: initial rate of all groups.
        betas: decay rates of the two moments.
        fused: whether one kernel updates all parameters.
        capturable: whether steps may become part of a CUDA graph; learning rates have to be tensors then.

    Attributes:
        param_groups: dicts with ``"params"``, ``"lr"`` (a number or a tensor, which may be replaced) and the further
            entries of the group.
        state: the tensors ``"step"``, ``"exp_avg"`` and ``"exp_avg_sq"`` of each parameter that has been updated.
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
        """Update every parameter that has a gradient, once."""
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
                # A graph needs the step count on the GPU. Otherwise it is on the CPU, which then need not wait.
                "step": torch.zeros((), device=parameter.device if self._fused or self.capturable else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]
