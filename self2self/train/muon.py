"""Muon for convolutions: steps whose singular values are all equal; Adam for all other parameters.

Adam scales each weight on its own. A convolution's weights form a matrix (one row for each output
channel). The averaged gradient of such a matrix has a few large singular values and many small ones, so
most directions hardly learn. Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
networks") takes the orthogonal matrix nearest to the average as its step, in which every direction has
the same length. From random weights, on one image, Adam needs several times as many steps (dev/log).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from self2self.train.adam import Adam

MOMENTUM = 0.95
ITERATIONS = 5
"""Number of Newton-Schulz iterations."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x^3 and x^5 that bring singular values between 0.01 and 1 near 1 soonest (ibid.)."""


def orthogonalised(matrix: Tensor) -> Tensor:
    """Approximately the orthogonal factor of the polar decomposition, with singular values of about 0.7 to 1.2.

    Each Newton-Schulz iteration is X <- (a + b XX' + c (XX')^2) X. The factors of all iterations are
    polynomials of the first XX', so they commute. They are multiplied with each other first, and with the
    large matrix only once.

    Args:
        matrix: float32 [rows, columns]; zero stays zero.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    matrix = matrix / (matrix.norm() + 1e-12)
    a, b, c = QUINTIC
    gram = matrix @ matrix.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for _ in range(ITERATIONS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ matrix


class Muon(Adam):
    """Muon for the weights of all convolutions but the last; Adam for the last one and for biases.

    Args:
        network: the network to optimise; its last convolution is called ``head``.
        learning_rate: rate of Adam.
        matrix_rate: rate of Muon: the spectral norm of a step.
        betas: decay rates of Adam's moments.
        capturable: whether steps may become part of a CUDA graph; learning rates have to be tensors then.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        matrix_rate: float,
        betas: tuple[float, float],
        capturable: bool = False,
    ) -> None:
        named = list(network.named_parameters())
        matrices = [tensor for name, tensor in named if is_matrix(name, tensor)]
        others = [tensor for name, tensor in named if not is_matrix(name, tensor)]
        # The schedule sets the rate of both groups; `rate_scale` is their ratio.
        groups: list[dict[str, Any]] = [
            {"params": matrices, "rate_scale": matrix_rate / learning_rate},
            {"params": others},
        ]
        super().__init__(groups, learning_rate, betas, capturable=capturable)

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters once; the gradients of Muon's parameters are None afterwards."""
        group = self.param_groups[0]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if parameter not in self.state:
                self.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}
            average = self.state[parameter]["exp_avg"]
            average.lerp_(parameter.grad, 1 - MOMENTUM)
            # Nesterov's momentum: the gradient counts once more than in the average.
            lookahead = parameter.grad.lerp(average, MOMENTUM).flatten(1)
            update = orthogonalised(lookahead) * max(1.0, lookahead.shape[0] / lookahead.shape[1]) ** 0.5
            if isinstance(group["lr"], Tensor):
                parameter.addcmul_(update.reshape(parameter.shape), group["lr"], value=-1)
            else:
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"])
            # Adam's step skips parameters without a gradient.
            parameter.grad = None
        super().step()


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon optimises a parameter; the last convolution has too few rows to gain by it."""
    return parameter.ndim == 4 and not name.startswith("head.")


def moment_names(optimiser: Adam, name: str, parameter: Tensor) -> tuple[str, ...]:
    """The keys of a parameter's moments in the optimiser's state."""
    if isinstance(optimiser, Muon) and is_matrix(name, parameter):
        return ("exp_avg",)
    return ("exp_avg", "exp_avg_sq")
