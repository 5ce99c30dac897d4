"""Draws samples for the start weights: a clean and a noisy crop, the noise level, and the values that are hidden."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from clean_crops import load_photographs, sample_clean, soft
from numpy.typing import NDArray
from prefit_noise import GREY, KIND_SHARES, draw, noisy_pair

from self2self.imaging.noise import GREY_LEVELS
from self2self.model.masks import Stream, generator
from self2self.train.start_weights import GREY_LEVELS_PER_UNIT

SOFT_SHARE = 0.3
SOFT_SHARES = {"camera file": 0.7, "correlated": 0.7}
"""Share of soft crops by kind of noise; `SOFT_SHARE` for the others. Correlated noise looks like the grain of
photographs, so most clean crops for it must have no grain."""
LEVEL_ERROR = 0.1
"""Relative error of the level that the network is told, because a measured level is not exact either."""
LARGEST_DROP_RATE, SMALL_DROP_RATE = 0.6, 0.02
"""Drop rates of the input: evenly distributed up to the first, or the second, at which nearly all is visible."""
MUCH_HIDDEN_SHARE = 0.6
"""Share of the samples with an evenly distributed drop rate."""
WHOLE_PIXEL_SHARE = 0.2
WHOLE_PIXEL_SHARES = {GREY: 0.76, "shared": 0.76}
"""Share of the samples in which the channels of a pixel are hidden together, by kind of noise; `WHOLE_PIXEL_SHARE` for
the others. Where channels share their noise, a visible channel would give away the noise of a hidden one."""


class Sample(NamedTuple):
    """What one sample of a training step needs.

    Attributes:
        clean: float32 (3, H, W), the target.
        noisy: float32 (3, H, W).
        level: float32, the standard deviation of noisy - clean, with a small error, in `GREY_LEVELS_PER_UNIT`.
        input_mask: bool (3, H, W); True keeps.
    """

    clean: NDArray[np.float32]
    noisy: NDArray[np.float32]
    level: np.float32
    input_mask: NDArray[np.bool_]


class Samples:
    """All samples of a seed, by index. Each is a function of seed and index, in whatever order they are drawn.

    Args:
        folders: folders of photographs, .png.
        size: side of a crop, in pixels.
        seed: seed of all samples.
        hides: whether values of the input are hidden.
    """

    def __init__(self, folders: list[Path], size: int, seed: int, *, hides: bool = True) -> None:
        self._photographs = load_photographs(folders)
        self._reduced = load_photographs(folders, parts=(2, 3))
        self._size = size
        self._seed = seed
        self._hides = hides

    def __getitem__(self, index: int) -> Sample:
        rng = generator(self._seed, index, Stream.CROP)
        kind = draw(KIND_SHARES, rng)
        is_soft = rng.random() < SOFT_SHARES.get(kind, SOFT_SHARE)
        crop = soft(self._reduced, self._size, rng) if is_soft else sample_clean(self._photographs, self._size, rng)
        clean, noisy = noisy_pair(crop, kind, rng)
        level = told_level(clean, noisy, rng)
        mask = draw_input_mask(clean.shape, kind, rng) if self._hides else np.ones(clean.shape, bool)
        return Sample(clean, noisy, level, mask)


def told_level(clean: NDArray[np.float32], noisy: NDArray[np.float32], rng: np.random.Generator) -> np.float32:
    """The level of the noise with a small random error; exactly 0 without noise."""
    level = float(np.std(noisy - clean)) * GREY_LEVELS / GREY_LEVELS_PER_UNIT
    return np.float32(level * np.exp(rng.normal(0, LEVEL_ERROR)))


def draw_input_mask(shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw which values of an image (C, H, W) stay visible, at a random drop rate."""
    much = rng.random() < MUCH_HIDDEN_SHARE
    drop_rate = rng.uniform(0, LARGEST_DROP_RATE) if much else SMALL_DROP_RATE
    whole_pixels = rng.random() < WHOLE_PIXEL_SHARES.get(kind, WHOLE_PIXEL_SHARE)
    drawn = rng.random((1, *shape[1:]) if whole_pixels else shape, np.float32) >= drop_rate
    return np.array(np.broadcast_to(drawn, shape))
