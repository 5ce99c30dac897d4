"""Runs a command in a forked process, and kills it at a chosen moment.

The moments are the steps between which files differ: before and after each rename, unlink, removal and creation of a
file or folder of the process. The process is forked from one that has imported everything, because that takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNTED = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir")
"""Functions of `os` that change a folder; `pathlib` and `shutil` call them."""
TIMED = {"history.jsonl", "page.html", "files.jsonl"}
"""Files that hold times, so that their bytes differ from run to run."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit code (negative for a signal), its steps, and what it printed."""

    code: int
    steps: int
    printed: str


def run(
    arguments: list[str], folder: Path, *, kill_at: int | None = None, after_seconds: float | None = None
) -> Outcome:
    """Run a command of self2self in `folder`, and kill it before its step `kill_at`, or after some seconds.

    A step is the moment before or after a function of `COUNTED`, or after the creation of a file.
    """
    receiving, sending = os.pipe()
    log = folder.parent / f"{folder.name}.log"
    child = os.fork()
    if child == 0:
        os.close(receiving)
        _in_the_child(arguments, folder, log, kill_at, sending)
    os.close(sending)
    timer = threading.Timer(after_seconds, os.kill, (child, signal.SIGKILL)) if after_seconds is not None else None
    if timer is not None:
        timer.start()
    with os.fdopen(receiving, "rb") as counts:
        steps = len(counts.read())
    _, status = os.waitpid(child, 0)
    if timer is not None:
        timer.cancel()
    return Outcome(os.waitstatus_to_exitcode(status), steps, log.read_text())


def _in_the_child(arguments: list[str], folder: Path, log: Path, kill_at: int | None, sending: int) -> None:
    """Run the command and end the process; each step is a byte in the pipe."""
    code = 1
    try:
        os.chdir(folder)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        count_steps(sending, kill_at)
        sys.argv = ["self2self", *arguments]
        from self2self.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def count_steps(sending: int, kill_at: int | None) -> None:
    """Replace the functions of `os` by ones that count their steps, and kill this process at step `kill_at`."""
    done = 0

    def step() -> None:
        nonlocal done
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(sending, b".")
        done += 1

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            step()
            result = function(*arguments, **options)
            step()
            return result

        return wrapper

    for name in COUNTED:
        setattr(os, name, counted(getattr(os, name)))
    original = os.open

    def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        handle = original(path, flags, *arguments, **options)
        if flags & os.O_CREAT:
            step()
        return handle

    os.open = opened


def contents(folder: Path) -> dict[str, str]:
    """The paths of all files and folders in `folder`, with a digest of the files whose bytes do not hold times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = "" if path.is_dir() or path.name in TIMED else digest(path)
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file; the metadata of a .safetensors, which have another order in every process, are sorted."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        end = 8 + int.from_bytes(data[:8], "little")
        data = json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]
    return hashlib.sha256(data).hexdigest()


def seconds_of(arguments: list[str], folder: Path) -> float:
    """The duration of an undisturbed run."""
    start = time.perf_counter()
    assert run(arguments, folder).code == 0
    return time.perf_counter() - start
