"""Every command and every line of Python in the README and the guides runs, as it stands there."""

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
from tests.forked import run_forked

README = ROOT / "README.md"
PAGES = {README: 8, ROOT / "docs" / "guide.md": 20}
"""Pages whose commands run, and how many there are at least."""
PROGRAMS = {README: 1, ROOT / "docs" / "python.md": 10, ROOT / "docs" / "live-dropout.md": 3}
"""Pages whose lines of Python run, and how many blocks of them there are at least."""

QUICK_ARRAYS = """
from functools import partial
import self2self
self2self.denoise = partial(self2self.denoise, fit_options=self2self.FitOptions(steps=2), passes=2)
self2self.fit = partial(self2self.fit, fit_options=self2self.FitOptions(steps=2))
"""
"""What makes the calls for arrays short; arguments that a page gives itself replace these."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", text_of(page), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def python_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)


def run(arguments: list[str], folder: Path) -> None:
    done = run_forked(arguments, folder)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr


def write_images(folder: Path) -> None:
    """The images that the pages name."""
    for index, name in enumerate(("photo", "image", "frame1", "frame2", "clean", "a", "b")):
        write_noisy(folder / f"{name}.png", seed=index)
    (folder / "scans").mkdir()
    write_noisy(folder / "scans" / "scan.png", seed=9)
    (folder / "shoot" / "inner").mkdir(parents=True)
    write_noisy(folder / "shoot" / "night.jpg", seed=10)
    write_noisy(folder / "shoot" / "inner" / "sky.jpg", seed=11)
    tifffile.imwrite(folder / "cells.tif", np.random.default_rng(0).poisson(90, (64, 64)).astype(np.uint16))
    pages = np.random.default_rng(1).poisson(90, (3, 64, 64)).astype(np.uint16)
    tifffile.imwrite(folder / "stack.tif", pages, photometric="minisblack")


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_pages_have_commands(page: Path) -> None:
    assert len(commands_of(page)) >= PAGES[page]


@pytest.mark.parametrize("page", PROGRAMS, ids=[page.name for page in PROGRAMS])
def test_pages_have_python(page: Path) -> None:
    assert len(python_of(page)) >= PROGRAMS[page]


def test_the_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text_of(README)):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_commands_run_in_the_order_in_which_they_stand(page: Path, tmp_path: Path) -> None:
    """Fits take two steps; that of the demo is whole."""
    write_images(tmp_path)
    shutil.copy(ROOT / "cli.py", tmp_path / "cli.py")
    for command in commands_of(page):
        program, *arguments = shlex.split(command)
        if program == "pip":
            # The test runs in the environment that `make test` has just installed the package into.
            assert arguments == ["install", "."]
            continue
        if program == "self2self":
            arguments = ["-m", "self2self", *arguments]
        else:
            assert program == "python"
        if {"fit", "denoise"} & set(arguments):
            arguments += ["--steps", "2"]
        if "denoise" in arguments:
            # After two steps the passes differ so much that `auto` would take hundreds.
            arguments += ["--passes", "2"]
        run(arguments, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", PROGRAMS, ids=[page.name for page in PROGRAMS])
def test_python_runs(page: Path, tmp_path: Path) -> None:
    """The blocks of a page run one after the other, each in a process of its own."""
    write_images(tmp_path)
    for code in python_of(page):
        few = code.replace("FitOptions(", "FitOptions(steps=2, ").replace("steps=3000", "steps=2")
        few = few.replace('"photo.png", options=', '"photo.png", self2self.FitOptions(steps=2), options=')
        run(["-c", QUICK_ARRAYS + few], tmp_path)


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
