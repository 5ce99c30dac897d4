"""Statistics of repeated measurements, and the ceiling that the machine sets."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np

from self2self.model.layers import LayerSpec

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


def convolution_gflop(layers: Iterable[LayerSpec], height: int, width: int) -> float:
    """Multiplications and additions of all convolutions in one pass over an image, in 10^9.

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
