"""Statistics of measurements, and the operation count of the paper's network."""

from __future__ import annotations

import pytest

from self2self.bench import measure
from self2self.model.layers import network_layers


def test_the_matrix_product_has_a_speed() -> None:
    assert measure.peak_gflops(repeats=1) > 0.1


def test_spread() -> None:
    assert measure.spread([3.0, 1.0, 2.0]) == pytest.approx(
        {"median": 2.0, "p10": 1.2, "p90": 2.8, "min": 1.0, "max": 3.0}
    )


def test_operations_of_the_papers_network() -> None:
    """The network needs about 0.68 MFLOP per pixel."""
    gflop = measure.convolution_gflop(network_layers(3, 48, (96,) * 5), 64, 64)
    assert gflop == pytest.approx(0.68e-3 * 64 * 64, rel=0.02)
