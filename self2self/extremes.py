"""Values beyond [0, 1], such as bright stars and hot pixels, which a network has not learnt to see.

What a network makes of such a value need not be an image at all, and not at that pixel alone. So it sees the nearest
value of the range (`within_range`), and what lay beyond comes back in the result (`with_extremes`) where the prediction
is near that end of the range, too. That of a star is, because its surroundings are bright; that of a hot pixel, whose
surroundings are not, is not, and so it goes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

DOUBTED, BELIEVED = 0.5, 0.75
"""Of the way to an end of the range: predictions up to the first do not support a value beyond it, and from the second
on they fully do; the share rises smoothly in between."""

LINES = 64
"""Lines that are worked on at a time."""


def within_range(pixels: FloatArray) -> FloatArray:
    """`pixels` with the nearest value of [0, 1] in the place of those beyond; itself where there are none."""
    if pixels.size and (pixels.min() < 0 or pixels.max() > 1):
        return np.clip(pixels, 0, 1)
    return pixels


def with_extremes(prediction: FloatArray, pixels: FloatArray, out: FloatArray) -> None:
    """The result from a mean prediction and the noisy image.

    Args:
        prediction: (C, H, W), of the network for `within_range(pixels)`; its values are clamped to [0, 1].
        pixels: float32 (C, H, W), the noisy image.
        out: the same, for the result, whose values lie in [0, 1] and the range of `pixels`. May be `pixels` itself.
    """
    for top in range(0, pixels.shape[1], LINES):
        lines = slice(top, top + LINES)
        clamped = np.clip(prediction[:, lines], 0, 1)
        noisy = pixels[:, lines]
        # Most images have no such value.
        if noisy.min() < 0 or noisy.max() > 1:
            beyond = noisy - np.clip(noisy, 0, 1)
            towards = np.where(beyond > 0, clamped, 1 - clamped)
            share = np.clip((towards - DOUBTED) / (BELIEVED - DOUBTED), 0, 1)
            clamped += beyond * (share * share * (3 - 2 * share))
        out[:, lines] = clamped
