"""The wheel holds all that the commands need: it runs where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.commands import FAST, ROOT, picture, write_noisy


def run(*arguments: str, folder: Path, packages: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    # A build leaves files in the folder of the source.
    source = tmp_path / "source"
    for name in ("self2self", "packaging"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "wheel", "./source")
    run(*build, folder=tmp_path)
    (wheel,) = (tmp_path / "wheel").glob("self2self-*-py3-none-any.whl")
    packages, work = tmp_path / "packages", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    where = run("-c", "import self2self; print(self2self.__file__)", folder=work, packages=packages)
    assert Path(where.strip()) == packages / "self2self" / "__init__.py"
    write_noisy(work / "noisy.png")
    command = ("-m", "self2self", "denoise", "noisy.png", *FAST, "--passes", "2", "--report", "page.html")
    assert "noisy.denoised.png: written" in run(*command, folder=work, packages=packages)
    assert picture(work / "noisy.denoised.png").shape == (64, 70, 3)
    assert (work / "page.html").is_file()
    # What napari looks for.
    entries = "from importlib.metadata import entry_points; print(*entry_points(group='napari.manifest'))"
    assert "self2self.napari_plugin:napari.yaml" in run("-c", entries, folder=work, packages=packages)
    assert (packages / "self2self" / "napari_plugin" / "napari.yaml").is_file()
