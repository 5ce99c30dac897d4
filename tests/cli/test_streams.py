"""Streams that cannot be written, and variables of the environment that make no sense."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


def shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell, in which `self2self` is the command."""
    line = command.replace("self2self", f"{sys.executable} {ROOT / 'cli.py'}")
    environment = {**os.environ, **variables}
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_stdout_is_full(tmp_path: Path) -> None:
    done = shell("self2self --version > /dev/full", tmp_path)
    assert done.returncode == 8
    assert done.stderr.startswith("error: cannot write to stdout (No space left on device); files")
    assert len(done.stderr.splitlines()) == 1


def test_stdout_is_full_for_a_result_and_for_an_error(tmp_path: Path) -> None:
    done = shell("self2self engines --timeout 60 --json > /dev/full", tmp_path)
    assert done.returncode == 8
    assert done.stderr.startswith("error: cannot write to stdout (No space left on device); files that were written")
    assert len(done.stderr.splitlines()) == 1
    done = shell("self2self infer no.onnx no.png --json > /dev/full", tmp_path)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1


def test_an_image_for_stdout_that_is_full_or_closed(work: Path) -> None:
    command = f"self2self infer {next(work.glob('runs/*/model.onnx'))} noisy.png --passes 1 -q -o -"
    done = shell(f"{command} > /dev/full", work)
    assert (done.returncode, done.stderr.count("\n")) == (8, 1)
    assert done.stderr.startswith("error: cannot write to stdout (No space left on device)")
    # A closed stream wants nothing, as everywhere.
    done = shell(f"{command} >&-", work)
    assert (done.returncode, done.stderr) == (0, "")


def test_text_says_that_an_image_went_to_stdout(work: Path) -> None:
    done = shell(f"self2self infer {next(work.glob('runs/*/model.onnx'))} noisy.png --passes 1 -o - > out.png", work)
    assert done.stderr.startswith("-: sent to stdout; removed: ")
    assert "written" not in done.stderr


def test_an_image_from_stdin_that_is_closed(tmp_path: Path) -> None:
    done = shell("self2self denoise - -o x.png <&-", tmp_path)
    assert done.returncode == 3
    assert done.stderr == "error: -: stdin is closed; expected an image there. Name a file instead.\n"


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full"])
def test_no_stderr(stream: str, tmp_path: Path) -> None:
    done = shell(f"self2self infer no.onnx no.png {stream}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_no_streams_at_all(tmp_path: Path) -> None:
    assert shell("self2self --version <&- >&- 2>&-", tmp_path).returncode == 0


@pytest.mark.parametrize("count", ["²", "0", "-3", "many", ""])
def test_a_number_of_threads_that_is_none(count: str, tmp_path: Path) -> None:
    done = shell("self2self --version", tmp_path, OMP_NUM_THREADS=count)
    assert done.returncode == 0
    assert done.stderr == f"note: OMP_NUM_THREADS is {count!r}, which is no number of threads; it is ignored.\n"


@pytest.mark.parametrize("count", ["3", "4,2"])
def test_numbers_of_threads(count: str, tmp_path: Path) -> None:
    assert shell("self2self --version", tmp_path, OMP_NUM_THREADS=count).stderr == ""
