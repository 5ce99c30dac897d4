"""Mean, standard deviation and standard error of the passes, computed from running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import self2self.runtime.ensemble.moments as moments_module
from self2self.imaging.orientation import MIRROR_ORIENTATIONS
from self2self.model.masks import PASSES_PER_BLOCK
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.ensemble.moments import Moments


@given(
    seed=st.integers(0, 2**32),
    groups=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    offset=st.floats(-2, 2),
    spread=st.floats(0, 3),
)
@settings(max_examples=60)
def test_moments_equal_those_of_numpy(seed: int, groups: list[int], offset: float, spread: float) -> None:
    count = sum(groups)
    values = offset + spread * np.random.default_rng(seed).standard_normal((count, 2, 3, 4))
    predictions = values.astype(np.float32)
    moments = Moments((2, 3, 4))
    first = 0
    for group in groups:
        moments.add(predictions[first : first + group])
        first += group
    wide = predictions.astype(np.float64)
    deviation = wide.std(axis=0, ddof=1) if count > 1 else np.zeros((2, 3, 4))
    assert moments.count == count
    np.testing.assert_allclose(moments.mean(), wide.mean(axis=0), rtol=1e-6, atol=1e-7)
    # Sums of squares have no digits below 1e-16 of the square of the mean.
    np.testing.assert_allclose(moments.standard_deviation(), deviation, rtol=1e-5, atol=1e-6)
    expected = 255 * np.sqrt(np.mean(deviation**2) / count) if count > 1 else math.nan
    assert moments.standard_error() == pytest.approx(expected, rel=1e-5, abs=1e-3, nan_ok=True)
    assert moments.mean().dtype == moments.standard_deviation().dtype == np.float32


def test_equal_predictions_have_no_deviation() -> None:
    moments = Moments((1, 2, 2))
    moments.add(np.full((7, 1, 2, 2), 0.1, np.float32))
    assert moments.standard_deviation().max() < 1e-7
    assert moments.standard_error() < 1e-4


@pytest.mark.parametrize("block", [1, PASSES_PER_BLOCK])
@pytest.mark.parametrize("slab", [1, 24, 100])
def test_an_image_of_several_slabs(block: int, slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of one row, of two, and of a number that does not divide the rows."""
    monkeypatch.setattr(moments_module, "SLAB_VALUES", slab)
    values = np.random.default_rng(3).standard_normal((14, 3, 7, 4)).astype(np.float32)
    moments = Moments((3, 7, 4), block)
    moments.add(values[:10, :, ::-1], orientation=1)
    moments.add(values[10:], orientation=0)
    passes = np.concatenate([values[:10, :, ::-1], values[10:]]).astype(np.float64)
    np.testing.assert_allclose(moments.mean(), passes.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.standard_deviation(), passes.std(0, ddof=1), rtol=1e-5, atol=1e-6)
    assert moments.is_finite()


@pytest.mark.parametrize("bad_value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block", [1, PASSES_PER_BLOCK])
def test_one_value_in_the_last_slab_that_is_not_finite_is_detected(
    block: int, bad_value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments_module, "SLAB_VALUES", 12)
    values = np.full((2, 3, 5, 4), np.finfo(np.float32).max)
    moments = Moments((3, 5, 4), block)
    moments.add(values)
    assert moments.is_finite()
    values[0, 2, 4, 3] = bad_value
    moments.add(values)
    assert not moments.is_finite()


def to_blocks(values: FloatArray, block: int, orientations: Sequence[int]) -> Moments:
    """Moments of whole blocks `values` [blocks, block, ...], added pass by pass; each block has one orientation."""
    moments = Moments(values.shape[2:], block)
    for group, orientation in zip(values, orientations, strict=True):
        for prediction in group:
            moments.add(prediction[None], orientation)
    return moments


@pytest.mark.parametrize("orientations", [[0] * 8, [0, 1, 2, 3] * 2, [0, 0, 0, 1, 1, 2, 2, 3]])
def test_the_standard_error_compares_blocks_of_one_orientation(orientations: list[int]) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((8, 5, 2, 3, 4)).astype(np.float32) + 10 * np.array(orientations)[
        :, None, None, None, None
    ].astype(np.float32)
    moments = to_blocks(values, 5, orientations)
    block_means = values.astype(np.float64).mean(1)
    groups = [block_means[[o == key for o in orientations]] for key in set(orientations)]
    within = sum(((group - group.mean(0)) ** 2).sum(0) for group in groups) / (8 - len(groups))
    assert moments.standard_error() == pytest.approx(255 * np.sqrt(np.mean(within) / 8), rel=1e-6)
    np.testing.assert_allclose(moments.mean(), block_means.mean(0), rtol=1e-5, atol=1e-6)
    flat = values.reshape(40, 2, 3, 4).astype(np.float64)
    np.testing.assert_allclose(moments.standard_deviation(), flat.std(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("passes", [50, 57, 70])
def test_orientations_have_equal_weights_for_any_number_of_passes(passes: int) -> None:
    """After one block in each orientation, mean and error are those of a stratified sample."""
    rng = np.random.default_rng(2)
    squares, deviations = [], []
    for _ in range(300):
        orientations = np.arange(passes) // PASSES_PER_BLOCK % MIRROR_ORIENTATIONS
        values = (rng.standard_normal((passes, 1, 8, 8)) + 10.0 * orientations[:, None, None, None]).astype(np.float32)
        moments = Moments((1, 8, 8))
        for value, orientation in zip(values, orientations, strict=True):
            moments.add(value[None], int(orientation))
        means = np.stack([values[orientations == key].mean(0) for key in range(MIRROR_ORIENTATIONS)])
        np.testing.assert_allclose(moments.mean(), means.mean(0), rtol=1e-5)
        squares.append(moments.standard_error() ** 2)
        deviations.append(255 * (moments.mean() - 10 * np.mean(range(MIRROR_ORIENTATIONS))))
    assert np.mean(squares) == pytest.approx(np.mean(np.square(deviations)), rel=0.05)


def test_the_standard_error_accounts_for_dependence_within_blocks() -> None:
    """Passes cancel within a block: the formula for independent passes would give ten times the error."""
    rng = np.random.default_rng(0)
    squares, means = [], []
    for _ in range(200):
        values = rng.standard_normal((4, 10, 1, 8, 8)).astype(np.float32)
        values -= 0.9 * values.mean(1, keepdims=True)
        moments = to_blocks(values, 10, [0] * 4)
        squares.append(moments.standard_error() ** 2)
        means.append(255 * moments.mean())
    assert np.mean(squares) == pytest.approx(np.mean(np.square(means)), rel=0.05)


def test_without_two_blocks_of_one_orientation_the_error_is_that_of_independent_passes() -> None:
    values = np.random.default_rng(0).standard_normal((4, 10, 1, 8, 8)).astype(np.float32)
    moments = to_blocks(values, 10, [0, 1, 2, 3])
    expected = 255 * np.sqrt(np.mean(values.reshape(40, -1).astype(np.float64).var(0, ddof=1)) / 40)
    assert moments.standard_error() == pytest.approx(expected, rel=1e-6)
