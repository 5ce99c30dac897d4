"""Values beyond [0, 1]: what the network sees in their place, and when they come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from self2self.extremes import LINES, with_extremes, within_range


def result(prediction: float, noisy: float) -> float:
    """Of one pixel."""
    out = np.empty((1, 1, 1), np.float32)
    with_extremes(np.full((1, 1, 1), prediction, np.float32), np.full((1, 1, 1), noisy, np.float32), out)
    return float(out[0, 0, 0])


def test_an_image_in_the_range_is_passed_on_without_a_copy() -> None:
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    assert within_range(pixels) is pixels
    np.testing.assert_array_equal(within_range(pixels * 3 - 1), np.clip(pixels * 3 - 1, 0, 1))


@given(noisy=st.floats(-100, 100, width=32), prediction=st.floats(-3, 4, width=32))
def test_results_lie_between_the_prediction_and_the_noisy_value(noisy: float, prediction: float) -> None:
    clamped = min(max(prediction, 0.0), 1.0)
    if 0 <= noisy <= 1:
        assert result(prediction, noisy) == clamped
    else:
        assert min(clamped, noisy) - 1e-5 <= result(prediction, noisy) <= max(clamped, noisy) + 1e-5


@pytest.mark.parametrize(
    ("prediction", "noisy", "expected"),
    [
        (1.0, 20.0, 20.0),  # a star
        (0.8, 20.0, 19.8),
        (0.3, 20.0, 0.3),  # a hot pixel
        (0.625, 3.0, 0.625 + 2.0 / 2),  # half way
        (0.0, -7.0, -7.0),
        (0.7, -7.0, 0.7),  # a dead pixel
    ],
)
def test_an_extreme_comes_back_where_the_prediction_supports_it(
    prediction: float, noisy: float, expected: float
) -> None:
    assert result(prediction, noisy) == pytest.approx(expected, rel=1e-6)


def test_the_result_may_overwrite_the_image() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 2, (3, 2 * LINES + 5, 9)).astype(np.float32)
    prediction = rng.uniform(-0.2, 1.2, pixels.shape).astype(np.float32)
    apart = np.empty_like(pixels)
    with_extremes(prediction, pixels.copy(), apart)
    with_extremes(prediction, pixels, pixels)
    np.testing.assert_array_equal(pixels, apart)
