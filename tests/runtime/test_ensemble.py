"""The streaming ensemble: statistics, independence of the batch, memory, and the choice of the batch."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.errors import FileFormatError, ResourceError
from self2self.masks import BLOCK, BoolArray
from self2self.orientation import MIRRORED, turned
from self2self.runtime import ensemble
from self2self.runtime.engine import FloatArray
from self2self.runtime.ensemble import (
    TRIAL_BATCHES,
    BatchChooser,
    Moments,
    expected_passes,
    not_finite,
    run_ensemble,
)
from self2self.runtime.sampling import Sampling
from tests.runtime.fakes import SIZE, FakeEngine, fake_engine, fake_maker, fake_model, hide_pixels


@given(
    seed=st.integers(0, 2**32),
    groups=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    offset=st.floats(-2, 2),
    spread=st.floats(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_moments_are_those_of_numpy(seed: int, groups: list[int], offset: float, spread: float) -> None:
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
    # Sums of squares lose what is below 1e-16 of the mean's square.
    np.testing.assert_allclose(moments.standard_deviation(), deviation, rtol=1e-5, atol=1e-6)
    expected = 255 * np.sqrt(np.mean(deviation**2) / count) if count > 1 else math.nan
    assert moments.standard_error() == pytest.approx(expected, rel=1e-5, abs=1e-3, nan_ok=True)
    assert moments.mean().dtype == moments.standard_deviation().dtype == np.float32


def test_equal_predictions_have_no_deviation() -> None:
    moments = Moments((1, 2, 2))
    moments.add(np.full((7, 1, 2, 2), 0.1, np.float32))
    assert moments.standard_deviation().max() < 1e-7
    assert moments.standard_error() < 1e-4


def test_the_batch_does_not_change_the_result() -> None:
    passes = 23
    results = {b: run_ensemble(fake_engine(), fake_maker(), passes, batch=b).moments for b in (1, 2, 5, 23, 40)}
    results[0] = run_ensemble(fake_engine(), fake_maker(), passes).moments
    for moments in results.values():
        assert moments.count == passes
        np.testing.assert_allclose(moments.mean(), results[1].mean(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(moments.standard_deviation(), results[1].standard_deviation(), rtol=0, atol=1e-6)


def test_every_pass_has_its_own_masks() -> None:
    moments = run_ensemble(fake_engine(), fake_maker(seed=3), 6, batch=4).moments
    image = fake_engine().image
    rows = [hide_pixels(image, fake_maker(seed=3).make(index, 1))[0].copy() for index in range(6)]
    np.testing.assert_allclose(moments.mean(), np.mean(rows, axis=0), rtol=0, atol=1e-6)


def test_the_seed_decides_the_result() -> None:
    first, again, other = (run_ensemble(fake_engine(), fake_maker(seed), 5).moments.mean() for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_engine_may_reuse_its_result() -> None:
    held = np.empty((4, 3, SIZE, SIZE), np.float32)

    def reuse(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        predictions = hide_pixels(image, masks)
        held[: len(predictions)] = predictions
        return held[: len(predictions)]

    expected = run_ensemble(fake_engine(), fake_maker(), 10, batch=4).moments.mean()
    assert np.array_equal(run_ensemble(fake_engine(reuse), fake_maker(), 10, batch=4).moments.mean(), expected)


def peak_bytes(passes: int) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        run_ensemble(fake_engine(), fake_maker(), passes, batch=2)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_passes() -> None:
    peak_bytes(4)
    one_image = 3 * SIZE * SIZE * 4
    assert abs(peak_bytes(1000) - peak_bytes(50)) < one_image


class FakeClock:
    """Time that passes only where a fake engine says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def counts_with(monkeypatch: pytest.MonkeyPatch, seconds_per_pass: Callable[[int], float], passes: int) -> FakeEngine:
    """Run with an engine whose passes take `seconds_per_pass(batch)`; it notes its batches."""
    clock = FakeClock()
    monkeypatch.setattr(ensemble.time, "perf_counter", clock)

    def predict(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        predictions = hide_pixels(image, masks)
        clock.now += len(predictions) * seconds_per_pass(len(predictions))
        return predictions

    engine = fake_engine(predict)
    result = run_ensemble(engine, fake_maker(), passes)
    assert result.moments.count == passes == sum(engine.counts)
    assert result.mask_seconds == result.reduce_seconds == 0
    assert result.pass_seconds == pytest.approx(clock.now)
    return engine


def test_the_fastest_batch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = counts_with(monkeypatch, lambda batch: 1 / batch, 60)
    assert engine.counts == [1, 1, 2, 2, 4, 4, 8, 8, 8, 8, 8, 6]


def test_larger_batches_are_not_tried_after_a_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = counts_with(monkeypatch, lambda batch: {1: 1.0, 2: 0.8, 4: 0.9}[batch], 20)
    assert engine.counts == [1, 1, 2, 2, 4, 4, 2, 2, 2]


def test_a_gain_that_is_not_worth_the_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = counts_with(monkeypatch, lambda batch: 1.0 - 0.01 * batch, 10)
    assert engine.counts == [1, 1, 2, 2, 1, 1, 1, 1]


def test_the_first_run_of_a_batch_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    def seconds(batch: int) -> float:
        slow = batch not in seen
        seen.add(batch)
        return 100.0 if slow else 1 / batch

    assert counts_with(monkeypatch, seconds, 46).counts == [1, 1, 2, 2, 4, 4, 8, 8, 8, 8]


@pytest.mark.parametrize("passes", range(1, 16))
def test_fewer_passes_than_the_trials_take(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    engine = counts_with(monkeypatch, lambda batch: 1 / batch, passes)
    assert max(engine.counts) <= passes


def test_the_reported_batch_is_one_that_could_run() -> None:
    assert run_ensemble(fake_engine(), fake_maker(), 3, batch=8).batch == 3
    assert run_ensemble(fake_engine(), fake_maker(), 16, batch=8).batch == 8


def test_the_reported_batch_was_measured() -> None:
    chooser = BatchChooser(8)
    assert chooser.chosen == 1
    for seconds in (9.0, 1.0, 9.0, 1.2):
        chooser.ran(chooser.batch, seconds)
    assert (chooser.batch, chooser.chosen) == (4, 2)


@pytest.mark.parametrize(("largest", "trials"), [(0, [1]), (1, [1]), (3, [1, 2]), (100, list(TRIAL_BATCHES))])
def test_memory_limits_the_trials(largest: int, trials: list[int]) -> None:
    chooser = BatchChooser(largest)
    tried = []
    for _ in range(20):
        tried.append(chooser.batch)
        chooser.ran(chooser.batch, 1.0)
    assert sorted(set(tried)) == trials
    assert chooser.batch == trials[-1]


def test_a_fixed_batch_stays() -> None:
    chooser = BatchChooser(5, fixed=True)
    for seconds in (1.0, 9.0, 0.1):
        chooser.ran(5, seconds)
        assert chooser.batch == 5


def test_a_batch_that_does_not_fit_is_halved() -> None:
    def predict(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        predictions = hide_pixels(image, masks)
        if len(predictions) > 3:
            raise MemoryError
        return predictions

    engine = fake_engine(predict)
    result = run_ensemble(engine, fake_maker(), 9, batch=16)
    assert engine.counts == [9, 8, 4, 2, 2, 2, 2, 1]
    assert result.batch == 2
    expected = run_ensemble(fake_engine(), fake_maker(), 9, batch=1).moments.mean()
    np.testing.assert_allclose(result.moments.mean(), expected, rtol=0, atol=1e-6)


def test_a_trial_that_does_not_fit_ends_the_trials() -> None:
    def predict(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        if len(masks["input_mask"]) > 1:
            raise MemoryError
        return hide_pixels(image, masks)

    engine = fake_engine(predict)
    assert run_ensemble(engine, fake_maker(), 6).batch == 1
    assert engine.counts == [1, 1, 2, 1, 1, 1, 1]


def test_a_single_pass_that_does_not_fit() -> None:
    def predict(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        raise MemoryError("no")

    with pytest.raises(ResourceError, match="a single pass does not fit") as caught:
        run_ensemble(fake_engine(predict), fake_maker(), 6)
    assert isinstance(caught.value.__cause__, MemoryError)


def test_numbers_that_a_narrow_type_cannot_hold_are_told_apart() -> None:
    model = fake_model()
    half = replace(model, contract=replace(model.contract, precision="fp16"))
    assert "fp16 is too narrow for this image. Use the float32 model: --precision fp32" in str(not_finite(half))
    assert "the fit diverged" in str(not_finite(model))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_not_finite_end_the_run_at_once(bad: float) -> None:
    def predict(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        predictions = hide_pixels(image, masks)
        predictions[0, 0, 3, 5] = bad
        return predictions

    engine = fake_engine(predict)
    with pytest.raises(FileFormatError, match=r"fake\.onnx: predicts numbers that are not finite.*self2self fit"):
        run_ensemble(engine, fake_maker(), 500)
    assert len(engine.counts) == 1


class Stop(Exception):  # noqa: N818 - not an error
    pass


def test_what_progress_raises_ends_the_run() -> None:
    seen: list[int] = []

    def on_progress(moments: Moments) -> None:
        seen.append(moments.count)
        if moments.count >= 6:
            raise Stop

    engine = fake_engine()
    with pytest.raises(Stop):
        run_ensemble(engine, fake_maker(), 500, batch=2, on_progress=on_progress)
    assert seen == [2, 4, 6]
    assert sum(engine.counts) == 6


def blocks_of(values: FloatArray, block: int, orientations: Sequence[int]) -> Moments:
    """Moments of whole blocks `values` [blocks, block, ...], one orientation each, with passes one by one."""
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
    moments = blocks_of(values, 5, orientations)
    block_means = values.astype(np.float64).mean(1)
    groups = [block_means[[o == key for o in orientations]] for key in set(orientations)]
    within = sum(((group - group.mean(0)) ** 2).sum(0) for group in groups) / (8 - len(groups))
    assert moments.standard_error() == pytest.approx(255 * np.sqrt(np.mean(within) / 8), rel=1e-6)
    np.testing.assert_allclose(moments.mean(), block_means.mean(0), rtol=1e-5, atol=1e-6)
    flat = values.reshape(40, 2, 3, 4).astype(np.float64)
    np.testing.assert_allclose(moments.standard_deviation(), flat.std(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("passes", [50, 57, 70])
def test_orientations_weigh_the_same_however_often_they_come(passes: int) -> None:
    """From a full round on, mean and error are those of a stratified sample."""
    rng = np.random.default_rng(2)
    squares, deviations = [], []
    for _ in range(300):
        orientations = np.arange(passes) // BLOCK % MIRRORED
        values = (rng.standard_normal((passes, 1, 8, 8)) + 10.0 * orientations[:, None, None, None]).astype(np.float32)
        moments = Moments((1, 8, 8))
        for value, orientation in zip(values, orientations, strict=True):
            moments.add(value[None], int(orientation))
        means = np.stack([values[orientations == key].mean(0) for key in range(MIRRORED)])
        np.testing.assert_allclose(moments.mean(), means.mean(0), rtol=1e-5)
        squares.append(moments.standard_error() ** 2)
        deviations.append(255 * (moments.mean() - 10 * np.mean(range(MIRRORED))))
    assert np.mean(squares) == pytest.approx(np.mean(np.square(deviations)), rel=0.05)


def test_the_standard_error_is_that_of_dependent_passes() -> None:
    """Passes that cancel within a block: the formula for independent ones would be ten times too large."""
    rng = np.random.default_rng(0)
    squares, means = [], []
    for _ in range(200):
        values = rng.standard_normal((4, 10, 1, 8, 8)).astype(np.float32)
        values -= 0.9 * values.mean(1, keepdims=True)
        moments = blocks_of(values, 10, [0] * 4)
        squares.append(moments.standard_error() ** 2)
        means.append(255 * moments.mean())
    assert np.mean(squares) == pytest.approx(np.mean(np.square(means)), rel=0.05)


def test_before_blocks_can_be_compared_the_error_is_that_of_independent_passes() -> None:
    values = np.random.default_rng(0).standard_normal((4, 10, 1, 8, 8)).astype(np.float32)
    moments = blocks_of(values, 10, [0, 1, 2, 3])
    expected = 255 * np.sqrt(np.mean(values.reshape(40, -1).astype(np.float64).var(0, ddof=1)) / 40)
    assert moments.standard_error() == pytest.approx(expected, rel=1e-6)


def test_flips_average_over_the_mirrored_image() -> None:
    """An engine that adds a ramp: over all orientations the ramp averages to a constant."""
    ramp = np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    images = []

    def predict(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        images.append(image.copy())
        return np.repeat(image + ramp, len(masks["input_mask"]), axis=0)

    engine = fake_engine(predict)
    upright = engine.image.copy()
    sampling = Sampling(MIRRORED * BLOCK, tolerance=None, balanced=False, flips=True)
    moments = run_ensemble(engine, fake_maker(), sampling, batch=4).moments
    np.testing.assert_allclose(moments.mean(), upright[0] + 0.5, atol=1e-5)
    assert engine.counts == [4, 4, 2] * MIRRORED
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image, turned(upright, index // 3))
    np.testing.assert_array_equal(engine.image, upright)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_batch_does_not_change_any_way_to_sample(balanced: bool, flips: bool) -> None:
    results = []
    for batch in (1, 3, 8, None):
        maker = fake_maker(balanced=balanced)
        sampling = Sampling(57, tolerance=None, balanced=balanced, flips=flips)
        results.append(run_ensemble(fake_engine(), maker, sampling, batch=batch).moments)
    for moments in results[1:]:
        np.testing.assert_allclose(moments.mean(), results[0].mean(), rtol=0, atol=1e-6)
        assert moments.standard_error() == pytest.approx(results[0].standard_error(), rel=1e-6)


def test_balanced_masks_lower_the_error_of_a_linear_network_to_nothing() -> None:
    def error(balanced: bool) -> float:
        sampling = Sampling(40, tolerance=None, balanced=balanced, flips=False)
        return run_ensemble(fake_engine(), fake_maker(balanced=balanced), sampling).moments.standard_error()

    # The shifts are whole bytes, so with a drop rate of one half it is next to nothing.
    assert error(balanced=True) < 0.1 * error(balanced=False)


@pytest.mark.parametrize("flips", [False, True])
def test_auto_ends_at_the_first_block_within_the_tolerance(flips: bool) -> None:
    errors: dict[int, float] = {}
    totals: dict[int, int] = {}
    sampling = Sampling(2000, tolerance=6.0, balanced=False, flips=flips)

    def on_progress(moments: Moments) -> None:
        errors[moments.count] = moments.standard_error()
        totals[moments.count] = expected_passes(sampling, moments)

    result = run_ensemble(fake_engine(), fake_maker(), sampling, batch=2, on_progress=on_progress)
    fewest = BLOCK * (MIRRORED + 1 if flips else 2)
    count = result.moments.count
    assert count % BLOCK == 0
    assert fewest <= count < 2000
    assert errors[count] <= 6.0
    assert all(errors[at] > 6.0 for at in range(fewest, count, BLOCK))
    assert totals[2] == fewest
    assert totals[count] == count
    assert all(at <= total <= 2000 for at, total in totals.items())


def test_auto_ends_at_the_most_passes() -> None:
    sampling = Sampling(70, tolerance=1e-9, balanced=False, flips=False)
    assert run_ensemble(fake_engine(), fake_maker(), sampling).moments.count == 70
