"""Runs programs in processes that are forked from one that has imported the libraries, because that takes seconds.

The modules of this package are imported anew by every program, and the interpreter ends as it does elsewhere. A test
of what is imported, of variables that libraries read when they load, or of limits of memory needs a fresh process.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
LONGEST_SECONDS = 600
"""After this time a forked process is killed by a signal: one that hangs fails its test, and does not stop the others.

Less than `faulthandler_timeout` in pyproject.toml, after which the process of the test ends, too.
"""


def end_if_it_hangs(seconds: int = LONGEST_SECONDS) -> None:
    """Let SIGALRM end this process in `seconds`; the stacks of its threads go to its stderr then."""
    faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
    signal.alarm(seconds)


def run_forked(
    arguments: list[str], folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments`: ``-c`` and code, ``-m`` and a module, or a script, and what the program is told.

    Args:
        arguments: what a fresh process would get after the name of Python.
        folder: of the process, by default the current one.
        environment: of the process, by default that of this one; this checkout is found in any case.
    """
    if not hasattr(os, "fork"):
        return _run_fresh(arguments, folder, environment)
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as streams:
        request = {
            "arguments": arguments,
            "folder": str(folder or Path.cwd()),
            "environment": _with_checkout(environment),
            "streams": streams,
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        printed = [(Path(streams) / name).read_text(encoding="utf-8") for name in ("out", "err")]
    return subprocess.CompletedProcess(arguments, code, *printed)


def _run_fresh(
    arguments: list[str], folder: Path | None, environment: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=_with_checkout(environment),
        capture_output=True,
        text=True,
        check=False,
    )


def _with_checkout(environment: Mapping[str, str] | None) -> dict[str, str]:
    return {**(os.environ if environment is None else environment), "PYTHONPATH": str(ROOT)}


@cache
def _server() -> subprocess.Popen[str]:
    """The process from which others are forked; it ends with this one, whose end closes its stdin."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forked"],
        env=_with_checkout(None),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    with server:
        pass


def _serve() -> dict[str, Any] | None:
    """Fork a process for each request on stdin and tell its exit code; returns the request in the forked process."""
    # Files of the process are not taken for the streams of this one.
    requests, codes = (os.fdopen(os.dup(number), mode) for number, mode in ((0, "r"), (1, "w")))
    for line in requests:
        with warnings.catch_warnings(action="ignore"):
            child = os.fork()
        if child == 0:
            requests.close()
            codes.close()
            request: dict[str, Any] = json.loads(line)
            return request
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=codes, flush=True)
    return None


def _become(request: dict[str, Any]) -> None:
    """Make this process the one that is asked for, and run its program."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    folder = Path(request["streams"])
    for number, path in enumerate((Path(os.devnull), folder / "out", folder / "err")):
        handle = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    end_if_it_hangs()
    kind, *rest = request["arguments"]
    if kind == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        program = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), program.__dict__)
    elif kind == "-m":
        sys.argv, sys.path[0] = rest, request["folder"]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [kind, *rest], str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    # ONNX Runtime is not imported, because it starts a thread, for which a forked process would wait at its end.
    import onnx
    import torch

    del onnx, torch
    if (asked := _serve()) is not None:
        _become(asked)
