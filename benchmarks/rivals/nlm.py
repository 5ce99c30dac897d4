"""Non-local means (Buades, Coll and Morel 2005), by scikit-image."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from benchmarks.pairs import FloatArray, Pair
from benchmarks.rivals.rival import Rival, without_package

STRENGTH = 0.8
"""`h` as a multiple of σ; scikit-image's example has it for its slow and exact mode."""


def denoise(pair: Pair, sigma: float) -> FloatArray:
    """Non-local means with patches of 5x5 pixels, which are looked for 6 pixels around.

    Args:
        pair: its noisy image, (C, H, W) in [0, 1].
        sigma: of the noise, in 8-bit grey levels.
    """
    from skimage.restoration import denoise_nl_means

    # One channel as an axis of its own would be taken for a row of pixels.
    image, axis = (pair.noisy[0], None) if len(pair.noisy) == 1 else (pair.noisy, 0)
    result = denoise_nl_means(
        image, h=STRENGTH * sigma / 255, sigma=sigma / 255, patch_size=5, patch_distance=6, channel_axis=axis
    )
    return np.asarray(result, np.float32).reshape(pair.noisy.shape)


def rivals() -> list[Rival]:
    """Non-local means."""
    return [
        Rival(
            "nlm",
            "that noise is white and Gaussian, and σ",
            True,
            denoise,
            lambda: without_package("skimage"),
            lambda _: {"version": version("scikit-image")},
        )
    ]
