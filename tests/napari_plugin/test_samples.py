"""The sample that the plugin offers."""

from __future__ import annotations

import numpy as np
from skimage import data

from self2self.napari_plugin.samples import noisy_photograph


def test_the_photograph_has_the_noise_that_it_tells_of() -> None:
    ((noisy, attributes, kind),) = noisy_photograph()
    assert (noisy.shape, noisy.dtype, attributes["rgb"], kind) == ((256, 256, 3), np.uint8, True, "image")
    clean = data.chelsea()[20:276, 90:346].astype(float)
    assert 23 < np.std(noisy - clean) < 26
