"""The scores of `benchmarks.protocol`: PSNR, SSIM of scikit-image and GMSD, none of which needs a download.

All compare two images in [0, 1]. The result of a method is clamped to black and white, and not rounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve, uniform_filter

from self2self.imaging.metrics import psnr

FloatArray = NDArray[np.floating]

SCORES = {
    "psnr": "dB over all channels, peak 1",
    "ssim": "skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, "
    "data_range=1, channel_axis=0)",
    "gmsd": "gradient magnitude similarity deviation of the luma (Xue et al. 2014); 0 is best",
}
"""How each score is computed, for the results file."""

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the luma (ITU-R BT.601), as MATLAB's `rgb2gray` has them."""

SMALLEST_SIDE = 11
"""Of an image for SSIM, whose window has as many pixels."""

GMSD_CONSTANT = 170 / 255**2
"""`c` of the paper, 170, for gradients of values from 0 to 255."""


def luma(pixels: FloatArray) -> NDArray[np.float64]:
    """Brightness of an image.

    Args:
        pixels: (C, H, W) in [0, 1]; three channels are red, green and blue, others count the same.

    Returns:
        (H, W).
    """
    values = pixels.astype(np.float64)
    return np.tensordot(LUMA, values, 1) if len(values) == len(LUMA) else values.mean(0)


def ssim(result: FloatArray, clean: FloatArray) -> float:
    """Structural similarity (Wang et al. 2004) by scikit-image, with the parameters of the paper.

    Args:
        result: (C, H, W) in [0, 1], sides of at least `SMALLEST_SIDE`.
        clean: the same shape.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            result.astype(np.float64),
            clean.astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
        )
    )


def gmsd(result: FloatArray, clean: FloatArray) -> float:
    """How unevenly gradients of `result` differ from those of `clean`; 0 where they are equal.

    Xue, Zhang, Mou and Bovik 2014, "Gradient magnitude similarity deviation: a highly efficient perceptual image
    quality index": means of 2x2 pixels, every second one; Prewitt gradients of a third; standard deviation of
    their similarity over the image.

    Args:
        result: (C, H, W) in [0, 1], of which the luma is taken.
        clean: the same shape.
    """
    first, second = (_gradients(luma(pixels)) for pixels in (result, clean))
    similarity = (2 * first * second + GMSD_CONSTANT) / (first**2 + second**2 + GMSD_CONSTANT)
    return float(similarity.std())


def _gradients(values: NDArray[np.float64]) -> NDArray[np.float64]:
    halved = uniform_filter(values, 2, mode="nearest", origin=-1)[::2, ::2]
    across = np.array([[1.0, 0.0, -1.0]] * 3) / 3
    return np.asarray(np.hypot(*(convolve(halved, kernel, mode="constant") for kernel in (across, across.T))))


def scores(result: FloatArray, clean: FloatArray) -> dict[str, float]:
    """All scores of a result against the clean image, both (C, H, W); the result is clamped to [0, 1] first."""
    clamped = np.clip(result, 0, 1)
    return {
        "psnr": round(psnr(clamped, clean), 3),
        "ssim": round(ssim(clamped, clean), 4),
        "gmsd": round(gmsd(clamped, clean), 4),
    }
