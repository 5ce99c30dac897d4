"""Runs a command and interrupts it by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def interrupt(*arguments: str, folder: Path, after_seconds: float) -> tuple[int, str]:
    """Run `cli.py` in `folder` and interrupt it once after `after_seconds`; returns its exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a script inherits an ignored Ctrl-C, and Python would keep ignoring it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        try:
            process.communicate(timeout=after_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, error
