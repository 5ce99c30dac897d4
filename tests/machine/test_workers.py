from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from self2self.machine.workers import Workers


def test_all_are_called_at_the_same_time_and_again_after_the_end() -> None:
    workers = Workers(3)
    for _ in range(2):
        # The barrier opens only if three threads wait at it.
        meeting = threading.Barrier(3, timeout=60)
        seen: list[int] = []

        def work(index: int, meeting: threading.Barrier = meeting, seen: list[int] = seen) -> None:
            meeting.wait()
            seen.append(index)

        workers.run(work, 3)
        assert sorted(seen) == [0, 1, 2]
        workers.close()


def test_one_alone_runs_in_the_calling_thread_and_may_share_its_own_work() -> None:
    workers = Workers(2)
    seen: list[tuple[int, bool]] = []

    def outer(index: int) -> None:
        workers.run(lambda inner: seen.append((inner, threading.current_thread() is threading.main_thread())), 2)

    workers.run(outer, 1)
    assert sorted(seen) == [(0, False), (1, False)]


def test_the_others_end_before_the_first_error_is_raised() -> None:
    ended: list[int] = []

    def work(index: int) -> None:
        if index < 2:
            raise ValueError(str(index))
        ended.append(index)

    with pytest.raises(ValueError, match="0"):
        Workers(2).run(work, 6)
    assert sorted(ended) == [2, 3, 4, 5]


def test_no_memory_for_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(2)
    refused: list[None] = []

    def submit(*arguments: object) -> None:
        refused.append(None)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", submit)
        with pytest.raises(MemoryError, match="no memory for another thread"):
            workers.run(lambda index: None, 2)
    assert refused == [None]
    done: list[int] = []
    workers.run(done.append, 2)
    assert sorted(done) == [0, 1]
