"""A folder that another process works in."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from self2self.errors import BusyError, OutputError
from self2self.machine import locks
from self2self.machine.files import atomic_path, atomic_write, is_temporary, remove_leftovers
from self2self.machine.locks import folder_lock, holder, is_used, output_lock
from tests.commands import ROOT

fcntl = pytest.importorskip("fcntl")

HOLD = """
import sys
from pathlib import Path
from self2self.machine.locks import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has locked `tmp_path` until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_who_holds_the_lock_and_since_when(tmp_path: Path, busy: subprocess.Popen[str]) -> None:
    message = rf"process {busy.pid}, .+, since \d{{4}}-\d\d-\d\d .* --wait, or go elsewhere"
    with pytest.raises(BusyError, match=message) as caught, folder_lock(tmp_path, instead="go elsewhere"):
        pass
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)


def test_waiting_ends_with_the_other_process(tmp_path: Path, busy: subprocess.Popen[str]) -> None:
    assert busy.stdin is not None
    ending = threading.Timer(1, busy.stdin.close)
    ending.start()
    with folder_lock(tmp_path, wait=True):
        assert busy.wait(timeout=60) == 0


def test_a_thread_may_lock_twice_and_another_thread_may_not(tmp_path: Path) -> None:
    refused: list[BusyError] = []

    def other() -> None:
        try:
            with folder_lock(tmp_path):
                pass
        except BusyError as error:
            refused.append(error)

    with folder_lock(tmp_path), folder_lock(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    other()
    assert len(refused) == 1


HOLD_OUTPUT = HOLD.replace("folder_lock", "output_lock")


def test_the_lock_of_an_output_names_its_process_and_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out.tif"
    command = [sys.executable, "-c", HOLD_OUTPUT, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        # The next run of any command in the folder leaves it to its process.
        remove_leftovers(tmp_path)
        message = rf"out\.tif: another command is writing it \(process {process.pid}, .+, since .* --wait, or choose"
        with pytest.raises(BusyError, match=message), output_lock(output):
            pass
        with output_lock(tmp_path / "other.tif") as waited:
            assert not waited
        process.kill()
    (left,) = tmp_path.iterdir()
    assert is_temporary(left)
    with output_lock(output, wait=True) as waited:
        assert not waited
    assert list(tmp_path.iterdir()) == []


def test_commands_take_the_lock_of_an_output_in_turn(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        for _ in range(20):
            with output_lock(tmp_path / "out.tif", wait=True):
                inside += 1
                most = max(most, inside)
                inside -= 1

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(locks, "_POLL_SECONDS", 0.001)
        patch.setattr(locks, "_TRY_SECONDS", 0.001)
        list(pool.map(work, range(4)))
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS without lockd: all is written, nothing is kept apart, and no temporary file is taken for a leftover."""

    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    of_another = tmp_path / ".0123456789ab.partial.png"
    of_another.write_bytes(b"perhaps of a living process")
    with folder_lock(tmp_path), output_lock(tmp_path / "out.png"), output_lock(tmp_path / "out.png"):
        assert not is_used(tmp_path)
        atomic_write(tmp_path / "out.png", b"whole")
    remove_leftovers(tmp_path)
    assert (tmp_path / "out.png").read_bytes() == b"whole"
    assert sorted(tmp_path.iterdir()) == [of_another, tmp_path / "out.png"]


def test_a_file_system_that_grants_a_lock_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine may take a file for a leftover: that ends in one line, and the old file stays whole."""
    monkeypatch.setattr(fcntl, "flock", lambda handle, operation: None)
    output = tmp_path / "out.png"
    atomic_write(output, b"old")
    with (
        pytest.raises(OutputError, match=r"out\.png: cannot be written \(No such file"),
        output_lock(output),
        atomic_path(output) as temporary,
    ):
        temporary.write_bytes(b"new")
        with output_lock(output):
            remove_leftovers(tmp_path)
    assert output.read_bytes() == b"old"
    with output_lock(output), output_lock(output):
        atomic_write(output, b"new")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == {output: b"new"}


def test_a_system_that_lists_no_locks(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("1: FLOCK  ADVISORY  WRITE\nnonsense\n")
    for listed in (tmp_path / "locks", tmp_path / "none"):
        assert holder(tmp_path, listed) == "the system does not say which"
