"""Statistics of measurements, and the operation count of the paper's network."""

from __future__ import annotations

import pytest
import torch

from self2self.bench import measure
from self2self.model.network import Self2SelfNet


def test_the_matrix_product_has_a_speed() -> None:
    assert measure.peak_gflops(repeats=1) > 0.1


def test_spread() -> None:
    assert measure.spread([3.0, 1.0, 2.0]) == pytest.approx(
        {"median": 2.0, "p10": 1.2, "p90": 2.8, "min": 1.0, "max": 3.0}
    )


def test_operations_of_the_papers_network() -> None:
    """The network needs about 0.68 MFLOP per pixel."""
    network = Self2SelfNet(3).to("meta")
    image = torch.empty(1, 3, 64, 64, device="meta")
    shapes = [(96, 4), (96, 4), (144, 8), (96, 8), (144, 16), (96, 16), (144, 32), (96, 32), (144, 64), (96, 64)]
    masks = [torch.empty(1, width, side, side, dtype=torch.bool, device="meta") for width, side in shapes]
    gflop = measure.convolution_gflop(network, image, image, *masks)
    assert gflop == pytest.approx(0.68e-3 * 64 * 64, rel=0.02)
    assert not any(layer._forward_hooks for layer in network.modules())
