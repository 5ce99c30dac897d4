"""Every command and every line of Python in the README runs, as it stands there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.commands import ROOT, write_noisy

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line[2:]
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
FITS_FULLY = "self2self denoise photo.png"
"""The one command whose fit and passes are whole here; others take two steps, or the test would take an hour."""
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(arguments: list[str], folder: Path) -> None:
    done = subprocess.run(
        arguments,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr


def test_the_readme_has_commands_and_its_links_lead_somewhere() -> None:
    assert len(COMMANDS) >= 10
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.slow
def test_commands_run_in_the_order_in_which_they_stand(tmp_path: Path) -> None:
    for index, name in enumerate(("photo", "image", "frame1", "frame2", "clean", "a", "b")):
        write_noisy(tmp_path / f"{name}.png", seed=index)
    tifffile.imwrite(tmp_path / "cells.tif", np.random.default_rng(0).poisson(90, (64, 64)).astype(np.uint16))
    pages = np.random.default_rng(1).poisson(90, (3, 64, 64)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "cli.py", tmp_path / "cli.py")
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        if program == "pip":
            # The test runs in the environment that `make test` has just installed the package into.
            assert arguments == ["install", "."]
            continue
        if program == "self2self":
            arguments = ["-m", "self2self", *arguments]
        else:
            assert program == "python"
        if {"fit", "denoise"} & set(arguments) and command != FITS_FULLY:
            arguments += ["--steps", "2"]
        if "denoise" in arguments and command != FITS_FULLY:
            # After two steps the passes differ so much that `auto` would take hundreds.
            arguments += ["--passes", "2"]
        if "model.onnx" in arguments:
            shutil.copy(next((tmp_path / "runs").glob("image-*/model.onnx")), tmp_path / "model.onnx")
        run([sys.executable, *arguments], tmp_path)


@pytest.mark.slow
def test_python_runs(tmp_path: Path) -> None:
    write_noisy(tmp_path / "photo.png")
    assert PYTHON
    for code in PYTHON:
        run([sys.executable, "-c", code.replace("FitOptions()", "FitOptions(steps=2)")], tmp_path)


@pytest.mark.slow
def test_demo_gains_five_decibels(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py"), str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    gain = re.search(r"gain +PSNR \+([\d.]+) dB", done.stdout)
    assert gain is not None, done.stdout
    assert float(gain[1]) >= 5
    assert (tmp_path / "demo" / "before-after.png").is_file()
