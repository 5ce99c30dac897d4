"""What only Linux or POSIX has is taken away: everything imports, and files, locks and marks have their fallbacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, write_noisy

TAKEN_AWAY = """
import builtins, io, os, pathlib, signal, sys

# As None, a module cannot be imported.
for name in ("fcntl", "resource", "termios", "tty", "pwd", "grp"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "setxattr", "getxattr", "listxattr"):
    if hasattr(os, name):
        delattr(os, name)

def is_away(path):
    return isinstance(path, (str, os.PathLike)) and str(path).startswith(("/proc/", "/sys/"))

open_file = io.open
def open_elsewhere(path, *arguments, **options):
    if is_away(path):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return open_file(path, *arguments, **options)
io.open = builtins.open = open_elsewhere
pathlib.Path.read_text = lambda path, original=pathlib.Path.read_text, **options: (
    original(path if not is_away(path) else pathlib.Path("nothing"), **options)
)
pathlib.Path.is_file = lambda path, original=pathlib.Path.is_file: not is_away(path) and original(path)
"""
PSUTIL = """
import psutil
# A name of the module comes before the one of builtins.
for module in (psutil, psutil._common, psutil._psplatform):
    module.open = open
"""
"""psutil reads /proc by itself, as it reads what other systems have."""


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"{PSUTIL}\n{TAKEN_AWAY}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_of_the_command_line_is_imported(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, self2self
for part in ("machine", "cli", "image_io", "imaging", "report"):
    package = importlib.import_module(f"self2self.{part}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
print("imported")
"""
    assert run(code, tmp_path).endswith("imported\n")


def test_files_locks_marks_and_facts_have_fallbacks(tmp_path: Path) -> None:
    code = """
import os, pathlib, builtins, io
from self2self.machine import files, locks, marks, system
folder = pathlib.Path("folder")
folder.mkdir()
replace = pathlib.Path.replace
def with_all_closed(path, target):
    # Windows renames no open file.
    links = (os.path.join("/dev/fd", name) for name in os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else ()
    assert str(path) not in [os.readlink(link) for link in links if os.path.islink(link)]
    return replace(path, target)
pathlib.Path.replace = with_all_closed
files.atomic_write(folder / "a", b"content", mark=marks.Mark("job"))
assert (folder / "a").read_bytes() == b"content"
assert marks.read_mark(folder / "a", "job") is None
with locks.folder_lock(folder), locks.use_of(folder / "a"):
    assert not locks.is_used(folder / "a")
assert "does not say" in locks.holder(folder)
(folder / ".0123456789ab.partial").write_bytes(b"of a living process, perhaps")
files.remove_leftovers(folder)
assert (folder / ".0123456789ab.partial").exists()
files.remove_folder(folder)
assert not folder.exists()
assert system.available_cpus() >= 1
assert system.cgroup_free_bytes() == float("inf")
io.open = builtins.open = open_file
import psutil
assert system.peak_memory_bytes() > 1e6
"""
    run(code, tmp_path)


@pytest.mark.slow
def test_an_image_is_denoised(tmp_path: Path) -> None:
    write_noisy(tmp_path / "noisy.png")
    code = """
from self2self.cli import app
app(["denoise", "noisy.png", "--steps", "1", "--passes", "2"], standalone_mode=False)
"""
    assert "noisy.denoised.png: written" in run(code, tmp_path)
