"""How many passes the ensemble computes at a time: trials by time, and what memory allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from self2self.errors import ResourceError
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.ensemble import host_loop as ensemble
from self2self.runtime.ensemble.host_loop import TRIAL_BATCHES, BatchChooser, run_ensemble
from tests.runtime.fakes import FakeEngine, fake_engine, fake_maker, hide_pixels


class FakeClock:
    """A clock that only fake engines advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run_with(monkeypatch: pytest.MonkeyPatch, seconds_per_pass: Callable[[int], float], passes: int) -> FakeEngine:
    """Run passes that take `seconds_per_pass(batch)` each; returns the engine, which recorded its batches."""
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
    engine = run_with(monkeypatch, lambda batch: 1 / batch, 60)
    assert engine.counts == [1, 1, 2, 2, 4, 4, 8, 8, 8, 8, 8, 6]


def test_larger_batches_are_not_tried_after_a_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = run_with(monkeypatch, lambda batch: {1: 1.0, 2: 0.8, 4: 0.9}[batch], 20)
    assert engine.counts == [1, 1, 2, 2, 4, 4, 2, 2, 2]


def test_a_larger_batch_that_gains_little_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = run_with(monkeypatch, lambda batch: 1.0 - 0.01 * batch, 10)
    assert engine.counts == [1, 1, 2, 2, 1, 1, 1, 1]


def test_the_first_run_of_a_batch_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    def seconds(batch: int) -> float:
        slow = batch not in seen
        seen.add(batch)
        return 100.0 if slow else 1 / batch

    assert run_with(monkeypatch, seconds, 46).counts == [1, 1, 2, 2, 4, 4, 8, 8, 8, 8]


@pytest.mark.parametrize("passes", range(1, 16))
def test_no_batch_is_larger_than_the_number_of_passes(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    engine = run_with(monkeypatch, lambda batch: 1 / batch, passes)
    assert max(engine.counts) <= passes


def test_the_reported_batch_is_at_most_the_number_of_passes() -> None:
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


def test_a_single_pass_that_does_not_fit_is_an_error() -> None:
    def predict(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        raise MemoryError("no")

    with pytest.raises(ResourceError, match="a single pass does not fit") as caught:
        run_ensemble(fake_engine(predict), fake_maker(), 6)
    assert isinstance(caught.value.__cause__, MemoryError)
