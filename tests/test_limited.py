"""The process that tries hostile inputs counts every way to fail, keeps the input, and goes on with the next one."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from tests import limited
from tests.limited import try_all

pytestmark = limited.needs_fork


def attempt(path: Path) -> bool:
    match path.read_bytes():
        case b"bug":
            raise KeyError("bug")
        case b"crash":
            # This end is meant, and its stack would look like an error of the tests.
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"hang":
            while True:
                pass
        case b"wait":
            faulthandler.unregister(signal.SIGALRM)
            threading.Event().wait()
        case b"memory":
            bytearray(2 * limited.BYTES)
        case b"peak":
            _ = b"x" * 2**26
        case other:
            return other == b"good"
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
def test_every_way_to_fail_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "SECONDS", 0)
    monkeypatch.setattr(limited, "WAITING_SECONDS", 3)
    monkeypatch.setattr(limited, "CORPUS", tmp_path / "corpus")
    names = ["good", "bad", "bug", "good", "crash", "hang", "wait", "memory", "peak", "good"]
    tried = try_all(names, str.encode, attempt, tmp_path / "case.png")
    assert (tried.accepted, tried.refused, tried.tracebacks, tried.crashes, tried.hangs) == (4, 1, 2, 1, 2)
    assert [failure.split()[0] for failure in tried.failures] == ["bug", "crash", "hang", "wait", "memory"]
    assert "KeyError" in tried.failures[0]
    assert "MemoryError" in tried.failures[4]
    assert 2**25 < tried.peak_bytes < 2**27
    kept = {path.name: path.read_bytes() for path in (tmp_path / "corpus" / "images").iterdir()}
    assert kept == {f"{name}.png": name.encode() for name in ("bug", "crash", "hang", "wait", "memory")}
    recorded: dict[str, object] = {}
    with pytest.raises(AssertionError, match="ended with -11"):
        tried.report(recorded.__setitem__, "images")
    assert recorded["cases"] == 10
