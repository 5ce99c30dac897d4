"""A scheduler and workers of Dask as programs of their own, which are killed at the end whatever has become of them.

`distributed.LocalCluster` waits for ever at its end where a worker was killed or stopped shortly before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.commands import ROOT

PROGRAM = [sys.executable, "-m", "distributed.cli.dask_"]
WORKERS = 2
START_SECONDS = 120


@dataclass(frozen=True)
class Programs:
    """The address of the scheduler, and the programs that start a worker again when it is gone."""

    scheduler_address: str
    nannies: list[psutil.Process]

    def worker_pids(self) -> list[int]:
        """The worker processes that run now."""
        found = []
        for nanny in self.nannies:
            for process in nanny.children():
                try:
                    # What multiprocessing starts beside the worker is no worker.
                    if "spawn_main" in " ".join(process.cmdline()):
                        found.append(process.pid)
                except psutil.NoSuchProcess:
                    pass
        return found


@contextmanager
def dask_programs(folder: Path, worker_ttl: str | None) -> Iterator[Programs]:
    """A scheduler and two workers of one thread.

    Args:
        folder: of their logs and files.
        worker_ttl: after this time a worker that says nothing counts as gone; None: never.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GOMP_SPINCOUNT": "1000",
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": repr(worker_ttl),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10",
    }
    address = folder / "scheduler.json"
    programs: list[subprocess.Popen[bytes]] = []

    def start(kind: str, *options: str) -> None:
        with (folder / f"{len(programs)}-{kind}.log").open("w") as log:
            command = [
                *PROGRAM[:2],
                f"{PROGRAM[2]}{kind}",
                "--no-dashboard",
                "--scheduler-file",
                str(address),
                *options,
            ]
            programs.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log))

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0")
        for _ in range(WORKERS):
            start("worker", "--nthreads", "1", "--local-directory", str(folder))
        yield Programs(_address(address), [psutil.Process(program.pid) for program in programs[1:]])
    finally:
        for program in programs:
            # A nanny that is killed first starts no worker again.
            children = psutil.Process(program.pid).children(recursive=True)
            program.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            program.wait(60)


def _address(file: Path) -> str:
    """The address that the scheduler has written into `file`; it has all workers then."""
    from distributed import Client

    end = time.monotonic() + START_SECONDS
    while not file.exists():
        assert time.monotonic() < end, f"the scheduler has not started: see {file.parent}"
        time.sleep(0.05)
    # It is there before its text is.
    time.sleep(0.5)
    address = str(json.loads(file.read_text())["address"])
    with Client(address, timeout=START_SECONDS) as client:
        client.wait_for_workers(WORKERS, timeout=START_SECONDS)
    return address
