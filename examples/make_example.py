"""Make examples/clean.png and examples/noisy.png from a CC0 photograph of scikit-image.

`skimage.data.chelsea` is by Stefan van der Walt, CC0. The noise is white Gaussian, sigma 25 in
8-bit grey levels, clipped and rounded, seed 0.

    python examples/make_example.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from self2self.train.synthetic_noise import add_noise

FOLDER = Path(__file__).parent
TOP, LEFT, SIZE = 20, 90, 256


def main() -> None:
    """Write both files."""
    clean = data.chelsea()[TOP : TOP + SIZE, LEFT : LEFT + SIZE]
    planes = clean.transpose(2, 0, 1).astype(np.float32) / 255
    noisy = add_noise(planes, "gaussian", 25, np.random.default_rng(0))
    Image.fromarray(clean).save(FOLDER / "clean.png", optimize=True)
    Image.fromarray(np.round(noisy.transpose(1, 2, 0) * 255).astype(np.uint8)).save(FOLDER / "noisy.png", optimize=True)


if __name__ == "__main__":
    main()
