"""Statistics of repeated measurements, and the ceiling that the machine sets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

MATRIX = 1024
IDLE_SECONDS = 0.3
"""After this, threads of the last library no longer spin and leave the CPUs to the next one."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile, least and greatest value."""
    low, middle, high = (float(value) for value in np.percentile(values, [10, 50, 90]))
    return {"median": middle, "p10": low, "p90": high, "min": float(min(values)), "max": float(max(values))}


def idle() -> None:
    """Let the thread pool of the library that ran last come to rest."""
    time.sleep(IDLE_SECONDS)


def peak_gflops(repeats: int = 4) -> float:
    """The most float32 GFLOP/s that PyTorch's matrix product of 1024x1024 reaches on all CPUs."""
    import torch

    best = float("inf")
    with torch.inference_mode():
        a, b = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
        product = a @ b
        for _ in range(repeats):
            start = time.perf_counter()
            torch.mm(a, b, out=product)
            best = min(best, time.perf_counter() - start)
    return 2e-9 * MATRIX**3 / best


def convolution_gflop(network: nn.Module, *inputs: Tensor) -> float:
    """Multiplications and additions of all convolutions in one call of `network`, in 10^9."""
    import torch

    operations = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations
        operations += 2 * output.numel() * layer.get_parameter("weight")[0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return 1e-9 * operations
