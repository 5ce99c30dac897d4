"""The workers of a Dask scheduler, or of another executor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from self2self.errors import EngineUnavailableError, UsageError, first_line, typed
from self2self.jobs.tasks import Patience
from self2self.jobs.volumes.volume_job import Workers
from self2self.jobs.worker import Share

CONNECT_SECONDS = 10
TASKS_OF_WORKER = 2
"""Tasks that are with a worker at a time: one runs, and one waits, so that no worker is idle between them."""
LEAST_WINDOW = 4


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A `distributed.Client` of a scheduler.

    Args:
        address: such as ``tcp://login:8786``, or the path of a file that `dask scheduler --scheduler-file` writes.

    Raises:
        EngineUnavailableError: Dask is not installed.
        UsageError: nobody answers there.
    """
    try:
        import distributed
    except ImportError as error:
        raise EngineUnavailableError(
            f"{typed('--scheduler')} needs the packages dask and distributed. Install them: pip install "
            "'self2self[dask]'"
        ) from error
    where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    with warnings.catch_warnings():
        # Packages of other versions do not matter unless a task fails, and that of self2self is checked by each task.
        warnings.simplefilter("ignore")
        try:
            client = distributed.Client(**where, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{typed('--scheduler', address)}: no scheduler answers there ({first_line(error)}). Start one with: "
                "dask "
                "scheduler, and type the address that it prints"
            ) from error
    try:
        yield client
    finally:
        client.close()  # type: ignore[no-untyped-call]


def workers_of(
    client: Any, *, share: Share | None = None, patience: Patience | None = None, window: int | None = None
) -> Workers:
    """The workers behind a `distributed.Client`, or behind any `concurrent.futures.Executor`.

    Args:
        client: the client or executor.
        share: what a task may take of its machine; None for what Dask gave to the worker.
        patience: how often and how long a task is tried.
        window: number of tasks that are with the workers at a time; None for two each.

    Raises:
        UsageError: it is neither.
    """
    patience = patience or Patience()
    if hasattr(client, "get_executor"):
        count = len(client.scheduler_info(n_workers=-1)["workers"])
        # Every attempt is a task of its own: an answer that is kept under the name of an earlier one may be lost.
        executor: Executor = client.get_executor(pure=False)
        return Workers(executor, window or max(LEAST_WINDOW, TASKS_OF_WORKER * count), share, patience)
    if not isinstance(client, Executor):
        raise UsageError(
            f"client is {type(client).__name__}; expected a distributed.Client or a concurrent.futures.Executor."
        )
    count = getattr(client, "_max_workers", 1)
    return Workers(client, window or max(LEAST_WINDOW, TASKS_OF_WORKER * count), share, patience)
