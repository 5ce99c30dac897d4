"""BM3D (Dabov et al. 2007), by the package `bm3d` of its authors."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from benchmarks.pairs import FloatArray, Pair
from benchmarks.rivals.rival import Rival, without_package


def denoise(pair: Pair, sigma: float) -> FloatArray:
    """BM3D of one channel, or colour BM3D in opponent colours; the profile is the package's own, ``np``.

    Args:
        pair: its noisy image, (C, H, W) in [0, 1].
        sigma: of the noise, in 8-bit grey levels.
    """
    import bm3d

    image = pair.noisy.transpose(1, 2, 0)
    clean = bm3d.bm3d_rgb(image, sigma / 255) if image.shape[2] == 3 else bm3d.bm3d(image[..., 0], sigma / 255)
    return np.atleast_3d(clean).transpose(2, 0, 1).astype(np.float32)


def rivals() -> list[Rival]:
    """BM3D."""
    return [
        Rival(
            "bm3d",
            "that noise is white and Gaussian, and σ",
            True,
            denoise,
            lambda: without_package("bm3d"),
            lambda _: {"version": version("bm3d")},
        )
    ]
