"""Sample data of the plugin."""

from __future__ import annotations

from typing import Any

import numpy as np

TOP, LEFT, SIZE, SIGMA = 20, 90, 256, 25


def noisy_photograph() -> list[tuple[Any, dict[str, Any], str]]:
    """scikit-image's photograph of a cat (CC0), 256x256 pixels, RGB, with white noise of sigma 25; for napari."""
    from skimage import data

    clean = data.chelsea()[TOP : TOP + SIZE, LEFT : LEFT + SIZE]
    noisy = clean + np.random.default_rng(0).normal(0, SIGMA, clean.shape)
    return [(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), {"name": "noisy photograph", "rgb": True}, "image")]
