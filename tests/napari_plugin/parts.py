"""Parts of layers for tests, made without napari, and a fit that takes next to no time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from self2self.napari_plugin import work
from self2self.napari_plugin.selection import LayerPart
from self2self.napari_plugin.settings import Settings

usual_fit_options = work.fit_options


def part_of(data: Any, rgb: bool = False, channel: int | None = None, **changes: Any) -> LayerPart:
    """All planes of `data`, as a layer has them."""
    ndim = data.ndim - rgb
    axes = [axis for axis in range(ndim) if axis != channel]
    region = tuple(slice(0, length) for length in data.shape[:ndim])
    attributes = {"scale": (2.0,) * ndim, "translate": (5.0,) * ndim, "colormap": "green", "contrast_limits": (1, 9)}
    part = LayerPart("cells", data, region, axes[-2], axes[-1], channel, rgb, attributes, {"lens": "63x"})
    return replace(part, **changes)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits take no step: the start weights denoise as they are."""

    def fit_options(settings: Settings) -> Any:
        return replace(usual_fit_options(settings), steps=0)

    monkeypatch.setattr(work, "fit_options", fit_options)


def values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A ramp with noise of sigma 20: float32."""
    ramp = np.linspace(50, 200, shape[-1])
    return (ramp + np.random.default_rng(seed).normal(0, 20, shape)).astype(np.float32)
