"""Compare an image with a clean reference: PSNR and SSIM."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


def psnr(image: FloatArray, reference: FloatArray, peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio in dB over all values; infinite for equal arrays."""
    error = float(np.mean(np.square(np.asarray(image, np.float64) - np.asarray(reference, np.float64))))
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def from_black_to_white(pixels: FloatArray, ends: tuple[float, float]) -> NDArray[np.float64]:
    """Map black and white of `pixels`, the two `ends`, to 0 and 1, so that metrics with a peak of 1 apply."""
    black, white = ends
    return (np.asarray(pixels, np.float64) - black) / (white - black)


def ssim(image: FloatArray, reference: FloatArray, peak: float = 1.0) -> float:
    """Return the structural similarity (Wang et al. 2004), mean over pixels and channels.

    The window is a Gaussian of standard deviation 1.5, truncated at 5 pixels. Only pixels whose
    window lies inside the image count. K1 = 0.01, K2 = 0.03.

    Args:
        image: (C, H, W); H and W of at least 11.
        reference: image of the same shape.
        peak: the largest value that a pixel can have.
    """
    x, y = np.asarray(image, np.float64), np.asarray(reference, np.float64)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return float(similarity.mean())


def _blur(array: NDArray[np.float64]) -> NDArray[np.float64]:
    offsets = np.arange(-5, 6)
    window = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window /= window.sum()
    for axis in (-2, -1):
        array = np.lib.stride_tricks.sliding_window_view(array, window.size, axis=axis) @ window
    return array
