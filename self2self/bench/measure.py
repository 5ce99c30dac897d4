"""Statistics of repeated measurements, and the speed of the machine's matrix product as a ceiling."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

MATRIX_SIDE = 1024
IDLE_SECONDS = 0.3
"""Time after which the idle threads of a library stop spinning, so that the next library has the CPUs."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the 10th and 90th percentile, the minimum and the maximum."""
    low, middle, high = (float(value) for value in np.percentile(values, [10, 50, 90]))
    return {"median": middle, "p10": low, "p90": high, "min": float(min(values)), "max": float(max(values))}


def idle() -> None:
    """Wait until the thread pool of the library that ran last is idle."""
    time.sleep(IDLE_SECONDS)


def peak_gflops(repeats: int = 4) -> float:
    """Return the highest float32 GFLOP/s of PyTorch's 1024x1024 matrix product on all CPUs, out of `repeats` runs."""
    import torch

    best = float("inf")
    with torch.inference_mode():
        a, b = torch.rand(MATRIX_SIDE, MATRIX_SIDE), torch.rand(MATRIX_SIDE, MATRIX_SIDE)
        product = a @ b
        for _ in range(repeats):
            start = time.perf_counter()
            torch.mm(a, b, out=product)
            best = min(best, time.perf_counter() - start)
    return 2e-9 * MATRIX_SIDE**3 / best


def convolution_gflop(network: nn.Module, *inputs: Tensor) -> float:
    """Count the multiplications and additions of all convolutions in one call of `network`, in 10^9."""
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
