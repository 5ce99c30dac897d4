"""The bound on the loss by rounding, on synthetic images whose true loss is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from self2self.errors import InputError
from self2self.export.rounding_loss import RoundingLoss, bounded_loss, measured_loss, signed_residual

SHAPE = (3, 128, 128)
Array = NDArray[Any]


def blurred(values: Array) -> Array:
    """Every value averaged with its neighbours; the errors of a denoiser are correlated like this."""
    for axis in (1, 2):
        values = (values + np.roll(values, 1, axis) + np.roll(values, -1, axis)) / 3
    return values


def denoised(noisy: Array) -> Array:
    """A simple denoiser, which leaves some of the noise and removes some of the image."""
    return blurred(blurred(noisy))


def rounded(mean: Array, rng: np.random.Generator, drift: float, size: float) -> Array:
    """A mean with a random change and a change proportional to the image, as rounded weights cause it."""
    return mean * (1 + drift) + size * blurred(rng.standard_normal(SHAPE))


def changes(drift: float, size: float, seed: int, bias: float = 0.0) -> tuple[RoundingLoss, RoundingLoss]:
    """The loss as bounded without the clean image, and as measured with it."""
    rng = np.random.default_rng(seed)
    clean = np.clip(blurred(blurred(rng.random(SHAPE))) * 2 - 0.5, 0.1, 0.9)
    noisy = clean + 0.1 * rng.standard_normal(SHAPE)
    full = denoised(noisy) + bias
    half = rounded(full, rng, drift, size)
    added = signed_residual(noisy, full, seed)
    again = denoised(full + added) + bias
    other = rounded(again, rng, drift, size)
    return bounded_loss(noisy, (full, half), added, (again, other)), measured_loss(full, half, clean)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("drift", "size", "bias"), [(0, 1e-4, 0), (1e-3, 1e-4, 0), (-3e-3, 1e-5, 0), (1e-3, 1e-4, 0.05)]
)
def test_the_bound_holds_and_the_estimate_is_near(drift: float, size: float, bias: float, seed: int) -> None:
    found, truth = changes(drift, size, seed, bias)
    assert truth.bound == abs(truth.estimate)
    assert truth.bound <= found.bound
    # The bound is informative: if the errors of all pixels added up, the loss would be far larger.
    worst = 20 * math.log10(1 + math.hypot(drift * 0.5, size) / 0.02)
    assert found.bound < worst
    assert abs(found.estimate - truth.estimate) <= found.bound


def test_a_systematic_loss_is_seen() -> None:
    # The float32 mean is already 0.05 too bright, and rounding adds to that.
    found, truth = changes(2e-2, 0, 0, bias=0.05)
    assert truth.estimate > 0.5
    assert found.bound > truth.estimate


def test_a_result_far_from_the_image_has_a_large_error() -> None:
    rng = np.random.default_rng(0)
    clean = np.full(SHAPE, 0.2)
    noisy = clean + 0.05 * rng.standard_normal(SHAPE)
    # The network predicts a constant for any input, so the second ensemble, with known noise, has no error.
    full, half = np.full(SHAPE, 0.6), np.full(SHAPE, 0.6 + 1e-5)
    added = signed_residual(noisy, full, 0)
    found = bounded_loss(noisy, (full, half), added, (full, half))
    truth = measured_loss(full, half, clean)
    assert truth.estimate == pytest.approx(20 * math.log10(1 + 1e-5 / 0.4))
    assert truth.bound <= found.bound < 2 * truth.bound


def test_no_difference_costs_nothing() -> None:
    found, truth = changes(0, 0, 0)
    assert found == truth == RoundingLoss(0, 0)


def test_the_residual_keeps_its_size_everywhere() -> None:
    rng = np.random.default_rng(0)
    noisy, full = rng.random(SHAPE), rng.random(SHAPE)
    added = signed_residual(noisy, full, 5)
    np.testing.assert_allclose(np.abs(added), np.abs(noisy - full), rtol=1e-6)
    assert abs(float(np.corrcoef(added.ravel(), (noisy - full).ravel())[0, 1])) < 0.02
    assert not np.array_equal(added, signed_residual(noisy, full, 6))


def test_images_that_blocks_do_not_fill_are_refused() -> None:
    odd = np.zeros((1, 24, 32))
    with pytest.raises(InputError, match="blocks of 16 do not fit into 24x32"):
        bounded_loss(odd, (odd, odd), odd, (odd, odd))
