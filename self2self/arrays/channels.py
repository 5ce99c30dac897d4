"""Decide which channels of an array are denoised together, as the colours of one image, and which apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from self2self.arrays.axes import Array
from self2self.image_io import stack_of_array
from self2self.jobs.fit import page_to_fit
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.observer import Observer

SHARED_NOISE_FACTOR = 2.0
"""Channels share their noise if no level is more than this times another, in the units of the array. The colours of a
camera do; the channels of a microscope, with a range of values each, do not."""
NAME = "array"
"""What messages call an array."""


def groups_of(pages: Array, fitting: FitOptions) -> list[Array]:
    """The stacks that are fitted apart, (pages, H, W, C) each.

    Samples of a colour (S) belong together. Three channels (C) do if they share their noise, because three is what
    networks for colours take; other channels are fitted apart.

    Args:
        pages: (pages, channels, H, W, samples).
        fitting: options of the fit; they say which page is measured.
    """
    if pages.shape[1] == 3 and pages.shape[4] == 1 and share_noise(pages, fitting):
        return [as_colours(pages)]
    return apart(pages)


def share_noise(pages: Array, fitting: FitOptions) -> bool:
    """Whether the channels of (pages, channels, H, W, 1) have noise of about one level, in the units of the array."""
    levels = []
    alone = replace(fitting, neighbours=0)
    for channel in apart(pages):
        prepared, _ = page_to_fit(stack_of_array(channel, NAME, nodata=fitting.nodata), alone, Observer())
        levels.append(prepared.measured_noise.sigma * prepared.image.scale)
    return max(levels) <= SHARED_NOISE_FACTOR * min(levels)


def as_colours(pages: Array) -> Array:
    """(pages, channels, H, W, 1) with the channels as samples of a colour: (pages, H, W, channels)."""
    return np.moveaxis(pages[..., 0], 1, 3)


def apart(pages: Array) -> list[Array]:
    """The channels of (pages, channels, H, W, samples), each (pages, H, W, samples)."""
    return [pages[:, channel] for channel in range(pages.shape[1])]


def joined(groups: list[Array], pages: Array) -> Array:
    """Put results of `groups_of` together again, in the shape of `pages`."""
    if len(groups) == 1 and pages.shape[1] > 1:
        return np.moveaxis(groups[0], 3, 1)[..., None]
    return np.stack(groups, axis=1)
