"""What workers lose to scheduler and storage, by simulation."""

from __future__ import annotations

import pytest

from benchmarks.cluster import overhead


def test_workers_that_wait_for_nothing_lose_nothing() -> None:
    assert overhead(10, 1000, 5.0, 0.0, 0.0) == pytest.approx(0)


def test_storage_is_lost_by_every_worker() -> None:
    assert overhead(10, 1000, 9.0, 0.0, 1.0) == pytest.approx(0.1)


def test_a_scheduler_that_is_too_slow_sets_the_pace() -> None:
    # It hands out 100 tasks a second; a thousand workers of one second each would take a thousand.
    assert overhead(1000, 20_000, 1.0, 0.01, 0.0) == pytest.approx(0.9, abs=0.01)
