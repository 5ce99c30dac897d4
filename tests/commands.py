"""Runs the commands as a user types them; in this process, because importing PyTorch takes seconds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from self2self.cli import app

ROOT = Path(__file__).parents[1]
FAST = ["--steps", "2"]


def run_program(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh process that finds this checkout, in the working directory."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def write_noisy(path: Path, size: tuple[int, int] = (64, 70), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    pixels = np.clip(120 + 40 * rng.standard_normal((*size, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run_cli(*arguments: str, expect: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == expect, (result.stdout, result.stderr, result.exception)
    if expect not in (0, 1):
        assert isinstance(result.exception, SystemExit), result.exception
    return result


def parse_json(result: Result) -> Any:
    return json.loads(result.stdout)


@contextmanager
def ctrl_c() -> Iterator[None]:
    """Within the block, Ctrl-C is pressed as soon as a fit begins: it ends after its first step."""
    from self2self.train import session

    @contextmanager
    def pressed() -> Iterator[threading.Event]:
        event = threading.Event()
        event.set()
        yield event

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "interrupts", pressed)
        yield


def unfinish(folder: Path) -> Path:
    """Replace the only run in `folder`, the current one, by a fit that was interrupted; returns its folder."""
    (run,) = (folder / "runs").iterdir()
    shutil.rmtree(run)
    with ctrl_c():
        run_cli("fit", "noisy.png", *FAST, expect=130)
    return run
