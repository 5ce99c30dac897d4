"""Noisy arrays for tests, and options that make fits take next to no time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import data

import self2self

NO_STEPS = self2self.FitOptions(steps=0)
"""The start weights as they are: they denoise, and no step is needed."""
FEW_STEPS = self2self.FitOptions(steps=2)
QUICK: dict[str, Any] = {"fit_options": NO_STEPS, "passes": 2}
CLEAN = data.camera()[60:124, 180:260].astype(np.float64)
"""(64, 80), from black 0 to white 255."""


def noisy(sigma: float = 20, seed: int = 0, scale: float = 1, offset: float = 0) -> NDArray[np.float64]:
    """`CLEAN` with white noise, in other units."""
    return (CLEAN + np.random.default_rng(seed).normal(0, sigma, CLEAN.shape)) * scale + offset


def as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def rms(error: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(error, np.float64)))))
