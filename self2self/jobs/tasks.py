"""Run tasks over any `concurrent.futures.Executor`: a few at a time, again where they were lost, in any order.

A task may run more than once, as an answer can get lost after the work is done. So tasks have to be idempotent.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from self2self.errors import BusyError, ResourceError, speaking_as, words

Task = TypeVar("Task")
Answer = TypeVar("Answer")

POLL_SECONDS = 0.5
BUSY_SECONDS = 2.0
"""Time after which a task whose folder was in use is tried again."""
LOST = {"KilledWorker", "CommClosedError", "FutureCancelledError", "TaskExhausted"}
"""Names of errors of schedulers that say nothing of the task: its worker is gone."""
PATIENCE_FACTOR = 20.0
"""A task that runs this many times as long as half of the others may be on a worker that hangs."""
COPIES = 3
"""Largest number of workers that one task is given to, because others seem to hang."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a task is tried.

    Attributes:
        tries: how often a task is begun whose worker is lost or whose folder is in use.
        seconds: a task that runs longer is given to another worker, too, if it also runs `PATIENCE_FACTOR` times as
            long as half of the others; the first answer counts.
    """

    tries: int = 5
    seconds: float = 60.0


class InThisProcess(Executor):
    """Runs each task at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As `Executor.submit`; an exception that is no error, such as Ctrl-C, ends the call."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(eq=False)
class _Running(Generic[Task]):
    """A task that is with workers."""

    task: Task
    tries: int = 1
    started: float = field(default_factory=time.monotonic)
    futures: list[Future[Any]] = field(default_factory=list)


def run_all(
    executor: Executor,
    function: Callable[[Task], Answer],
    tasks: Iterable[Task],
    *,
    window: int,
    patience: Patience | None = None,
    on_wait: Callable[[], None] = lambda: None,
    completed: Callable[[Task, Answer | Exception], Task | None] = lambda task, answer: None,
) -> Iterator[tuple[Task, Answer | Exception]]:
    """Run `function` on every task; yields each task with its answer, or with its error, as they come.

    Args:
        executor: runs them; `function`, tasks and answers have to travel to it.
        function: of a task.
        tasks: are taken one after the other, so that they may be made when they are needed.
        window: number of tasks that are with the executor at a time.
        patience: how often and how long a task is tried.
        on_wait: called twice a second; its exceptions end the call.
        completed: of a task and its answer, the task with what the worker lacked, to be run in its place; None if it
            lacked nothing.

    Raises:
        ResourceError: the executor itself broke, so that no task can run.
    """
    patience = patience or Patience()
    waiting: deque[tuple[float, _Running[Task]]] = deque()
    source = iter(tasks)
    running: dict[Future[Any], _Running[Task]] = {}
    seconds: deque[float] = deque(maxlen=100)

    def begin(item: _Running[Task]) -> None:
        future = _submit(executor, function, item.task)
        item.started = time.monotonic()
        item.futures.append(future)
        running[future] = item

    try:
        while True:
            while len({id(item) for item in running.values()}) < window:
                item = _next(waiting, source)
                if item is None:
                    break
                begin(item)
            if not running and not waiting:
                return
            done, _ = wait(running, POLL_SECONDS, FIRST_COMPLETED) if running else (set(), None)
            on_wait()
            for future in done:
                item = running.pop(future, None)
                if item is None:
                    continue
                answer = _answer(future)
                fuller = completed(item.task, answer)
                if fuller is not None or (_is_to_be_tried_again(answer) and item.tries < patience.tries):
                    item.task, item.tries = (item.task, item.tries + 1) if fuller is None else (fuller, item.tries)
                    item.futures.remove(future)
                    if not item.futures:
                        delay = BUSY_SECONDS if isinstance(answer, BusyError) else 0.0
                        waiting.append((time.monotonic() + delay, item))
                    continue
                for other in item.futures:
                    running.pop(other, None)
                    other.cancel()
                seconds.append(time.monotonic() - item.started)
                yield item.task, answer
            if not done and not running:
                time.sleep(POLL_SECONDS)
            for item in _hanging(running, seconds, patience):
                begin(item)
    finally:
        for future in running:
            future.cancel()


def _next(waiting: deque[tuple[float, _Running[Task]]], source: Iterator[Task]) -> _Running[Task] | None:
    """The next task to begin: one that waited long enough, or a new one; None if there is none now."""
    for place, (due, item) in enumerate(waiting):
        if due <= time.monotonic():
            del waiting[place]
            return item
    try:
        return _Running(next(source))
    except StopIteration:
        return None


def _submit(executor: Executor, function: Callable[[Task], Answer], task: Task) -> Future[Answer]:
    try:
        return executor.submit(speaking_as, words(), function, task)
    except (BrokenExecutor, RuntimeError) as error:
        raise _broken(error) from error


def _answer(future: Future[Answer]) -> Answer | Exception:
    """What a future that is done returned, or its error.

    Raises:
        ResourceError: the executor broke.
    """
    try:
        return future.result()
    except BrokenExecutor as error:
        raise _broken(error) from error
    except CancelledError as error:
        return RuntimeError(str(error) or "cancelled by the scheduler")
    except Exception as error:
        return error


def _broken(error: BaseException) -> ResourceError:
    return ResourceError(
        f"the workers ended ({' '.join(str(error).split())[:120]}), perhaps for lack of memory. What is finished is "
        "kept; give the same command again, with fewer workers."
    )


def _is_to_be_tried_again(answer: object) -> bool:
    return isinstance(answer, BusyError) or is_lost(answer)


def is_lost(answer: object) -> bool:
    """Whether an answer is an error that says nothing of the task, but that its worker is gone."""
    return isinstance(answer, Exception) and (
        type(answer).__name__ in LOST or str(answer).startswith("cancelled by the scheduler")
    )


def _hanging(
    running: dict[Future[Any], _Running[Task]], seconds: deque[float], patience: Patience
) -> list[_Running[Task]]:
    """Tasks that run so long that another worker should try them, too."""
    if not seconds:
        return []
    limit = max(patience.seconds, PATIENCE_FACTOR * statistics.median(seconds))
    items = {id(item): item for item in running.values()}.values()
    return [item for item in items if len(item.futures) < COPIES and time.monotonic() - item.started > limit]
