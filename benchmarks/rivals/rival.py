"""What a rival is, and the noise level that some of them need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import FloatArray, Pair

LEAST_SIGMA = 0.1
"""Least standard deviation that a method is told, in 8-bit grey levels: an estimate may be 0."""

Denoise = Callable[[Pair, float], FloatArray]


def always(pair: Pair | None = None) -> str:
    """No reason not to run."""
    return ""


def nothing(pair: Pair) -> dict[str, Any]:
    """No inputs."""
    return {}


@dataclass(frozen=True, slots=True)
class Rival:
    """One method.

    Attributes:
        name: on the command line and in results.
        knows: what it is told beside the noisy image, or was trained for; in a few words.
        takes_sigma: whether it is told the standard deviation of the noise.
        denoise: (pair, sigma in 8-bit grey levels) to the result, (C, H, W) with 0 for black and 1 for white. Of the
            pair it sees `noisy` and `dtype` alone. Sigma means nothing where it is not taken.
        missing: why it cannot run here, or an empty text.
        inputs: for a pair, on what a row of results depends beside sigma.
        slow: whether it is left out unless it is asked for.
    """

    name: str
    knows: str
    takes_sigma: bool
    denoise: Denoise
    missing: Callable[[], str] = always
    inputs: Callable[[Pair], dict[str, Any]] = nothing
    slow: bool = False


def wavelet_sigma(noisy: FloatArray) -> float:
    """scikit-image's wavelet estimate, mean over channels, in 8-bit grey levels.

    Args:
        noisy: (C, H, W) in [0, 1].
    """
    from skimage.restoration import estimate_sigma

    return 255 * float(estimate_sigma(noisy, channel_axis=0, average_sigmas=True))


def estimated_sigma(noisy: FloatArray) -> float:
    """`wavelet_sigma`, and `LEAST_SIGMA` where the estimate is less."""
    return max(wavelet_sigma(noisy), LEAST_SIGMA)


def without_package(name: str) -> str:
    """Why a method that needs the package `name` cannot run; an empty text where it is installed."""
    return "" if find_spec(name) is not None else f"the package {name} is not installed"


def file_hash(path: Path) -> str:
    """The first half of the SHA-256 of a file of weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def padded_even(pixels: FloatArray) -> FloatArray:
    """(C, H, W) with one more row or column, the last one again, where a side is odd."""
    _, height, width = pixels.shape
    return np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
