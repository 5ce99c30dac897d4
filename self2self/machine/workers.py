"""Run work on a few threads.

Threads help only for work that releases Python's global lock: NumPy on large arrays, and engines.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

Work = Callable[[int], None]
"""Function of the index of a call."""


class Workers:
    """Threads that start when they are first needed and end with this object.

    Args:
        threads: number of threads.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def run(self, work: Work, count: int) -> None:
        """Call `work` with 0 to `count` - 1, and return when all calls have ended, with or without an error.

        `work` must not use these workers itself, unless `count` is 1.

        Raises:
            MemoryError: there is no memory for another thread.
            Exception: the error of the failed call with the lowest index.
        """
        if count == 1:
            work(0)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)
        try:
            running = [self._pool.submit(work, index) for index in range(count)]
        except RuntimeError as error:
            # No call that was submitted may still run when `run` is called again.
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            raise MemoryError("no memory for another thread") from error
        wait(running)
        for future in running:
            future.result()

    def close(self) -> None:
        """End the threads; `run` starts them again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
