"""Statistics of repeated measurements, and the speed of the machine's matrix product as a ceiling."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np

from self2self.model.layers import LayerSpec

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


def convolution_gflop(layers: Iterable[LayerSpec], height: int, width: int) -> float:
    """Count the multiplications and additions of all convolutions in one pass over an image, in 10^9.

    Args:
        layers: of the network.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    operations = 0
    for layer in layers:
        pixels = (height // layer.stride) * (width // layer.stride)
        operations += 2 * pixels * sum(math.prod(shape) for shape in layer.weights.values() if len(shape) == 4)
    return 1e-9 * operations
