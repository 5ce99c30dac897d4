"""Runs a command in a forked process, and disturbs it at a chosen moment: kills it, fills the disk, removes its folder.

The moments are the steps between which files differ: before and after each rename, unlink, removal and creation of a
file or folder of the process. The process is forked from one that has imported everything, because that takes seconds.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forked import end_if_it_hangs

COUNTED = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir")
"""Functions of `os` that change a folder; `pathlib` and `shutil` call them."""
TIMED = {"history.jsonl", "page.html", "files.jsonl", "speed.json", "speed.html"}
"""Files that hold times, so that their bytes differ from run to run."""
NEVER_THE_SAME = (".engine", ".engine.json")
"""Ends of names of files that TensorRT builds, with other bytes each time."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit code (negative for a signal), its steps, and what it printed."""

    code: int
    steps: int
    printed: str


PARTS = ("bench", "cli", "export", "image_io", "imaging", "jobs", "live", "machine", "report", "runtime", "train")
"""Parts of the package that commands import."""


def import_everything() -> None:
    """Import what commands need, before processes are forked from this one."""
    import matplotlib.figure
    import onnxruntime
    import torch

    del matplotlib, onnxruntime
    for part in PARTS:
        package = importlib.import_module(f"self2self.{part}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    torch.set_num_threads(1)


def kill() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    """From now on, this process can write no byte to any file."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def remove_current_folder() -> None:
    """Remove the folder in which this process runs, as another program may do."""
    # `os` counts steps now, and these are not steps of the command.
    subprocess.run(["rm", "-rf", Path.cwd()], check=True)


def run(
    arguments: list[str],
    folder: Path,
    *,
    at_step: int | None = None,
    disturb: Callable[[], None] = kill,
    kill_after_seconds: float | None = None,
) -> Outcome:
    """Run a command in `folder`, and `disturb` it before its step `at_step`, or kill it after some seconds.

    A step is the moment before or after a function of `COUNTED`, or after the creation of a file.
    """
    steps, printed = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(steps[0])
        os.close(printed[0])
        _in_the_child(arguments, folder, at_step, disturb, steps[1], printed[1])
    os.close(steps[1])
    os.close(printed[1])
    timer = threading.Timer(kill_after_seconds or 0, os.kill, (child, signal.SIGKILL))
    if kill_after_seconds is not None:
        timer.start()
    with ThreadPoolExecutor(2) as pool:
        counts, text = pool.map(_read_all, (steps[0], printed[0]))
    _, status = os.waitpid(child, 0)
    timer.cancel()
    return Outcome(os.waitstatus_to_exitcode(status), len(counts), text.decode())


def _read_all(handle: int) -> bytes:
    with os.fdopen(handle, "rb") as file:
        return file.read()


def _in_the_child(
    arguments: list[str],
    folder: Path,
    at_step: int | None,
    disturb: Callable[[], None],
    counts: int,
    printed: int,
) -> None:
    """Run the command and end the process; each step is a byte in the pipe `counts`."""
    code = 1
    try:
        os.chdir(folder)
        # What a killed process leaves among the temporary files counts, too.
        tempfile.tempdir = str(folder / "temporary")
        for stream in (1, 2):
            os.dup2(printed, stream)
        os.close(printed)
        end_if_it_hangs()
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        count_steps(counts, at_step, disturb)
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


def count_steps(counts: int, at_step: int | None, disturb: Callable[[], None]) -> None:
    """Replace the functions of `os` by ones that count their steps, and `disturb` this process at step `at_step`."""
    done = 0

    def step() -> None:
        nonlocal done
        if done == at_step:
            disturb()
        os.write(counts, b".")
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
        has_no_digest = path.is_dir() or path.name in TIMED or path.name.endswith(NEVER_THE_SAME)
        found[str(path.relative_to(folder))] = "" if has_no_digest else digest(path)
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
