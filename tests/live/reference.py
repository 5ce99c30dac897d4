"""PyTorch's own run of a model in training mode, whose random operators are given what they draw.

This knows nothing of programs and graphs: it watches every operator that PyTorch runs, and replaces the results of
those that draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
NOISE = {aten.rand.default, aten.rand_like.default, aten.randn.default, aten.randn_like.default}


class Given(TorchDispatchMode):
    """Gives the draws one after the other.

    Attributes:
        left: draws that were not asked for yet.
    """

    def __init__(self, draws: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.left = list(draws)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in NOISE:
            result = func(*args, **kwargs)
            draw = self._next(result)
            # Uniform noise that is rounded down after a keep probability was added.
            return torch.where(draw, 1 - 2.0**-20, 0.0).to(result.dtype) if draw.dtype == torch.bool else draw
        if func is aten.bernoulli_.float and not (len(args) > 1 and args[1] in (0, 1)):
            return args[0].copy_(self._next(args[0]))
        if func is aten.uniform_.default:
            low, high = args[1:] or (0.0, 1.0)
            return args[0].copy_(self._next(args[0]) * (high - low) + low)
        if func is aten.exponential_.default:
            return args[0].copy_(-torch.log(self._next(args[0])))
        assert torch.Tag.nondeterministic_seeded not in func.tags or "attention" in str(func), func
        return func(*args, **kwargs)

    def _next(self, like: torch.Tensor) -> torch.Tensor:
        draw = self.left.pop(0)
        # Recurrent layers drop out with the time first; here samples are first.
        return draw if draw.shape == like.shape else draw.transpose(0, 1)
