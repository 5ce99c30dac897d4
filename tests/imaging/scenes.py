"""Clean and noisy frames for the tests of neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage import data

FloatArray = NDArray[np.float32]
SIGMA = 0.08
SIDE = 128


def view(top: int = 60, left: int = 190, side: int = SIDE) -> FloatArray:
    """A part of scikit-image's photograph of a camera man, float32 (1, side, side) in [0, 1]."""
    part = data.camera()[top : top + side, left : left + side]
    return (part / 255).astype(np.float32)[None]


def other_view(side: int = SIDE) -> FloatArray:
    """A part of another photograph."""
    return (data.coins()[60 : 60 + side, 100 : 100 + side] / 255).astype(np.float32)[None]


def noisy(clean: FloatArray, seed: int, sigma: float = SIGMA) -> FloatArray:
    """`clean` with independent Gaussian noise."""
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return (clean + noise).astype(np.float32)
