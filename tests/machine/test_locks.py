"""A folder that another process works in."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from self2self.errors import BusyError
from self2self.machine.locks import folder_lock, holder
from tests.commands import ROOT

pytest.importorskip("fcntl")

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


def test_a_system_that_lists_no_locks(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("1: FLOCK  ADVISORY  WRITE\nnonsense\n")
    for locks in (tmp_path / "locks", tmp_path / "none"):
        assert holder(tmp_path, locks) == "the system does not say which"
