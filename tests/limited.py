"""Tries hostile inputs in a forked process whose time and memory are limited, and counts what becomes of them.

A case that crashes the process, runs for too long or raises an unexpected error is a failure. Its bytes are kept in
`tests/corpus/`, from where a test tries them again for ever.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from self2self.machine.system import peak_memory_bytes
from tests.forked import end_if_it_hangs

SECONDS = 10
"""Processor time that a case may take."""
WAITING_SECONDS = 300
"""Time that a case may take in all: one that waits for ever takes no processor time."""
BYTES = 2**30
"""Memory that a case may take, beyond that of the process."""
CORPUS = Path(__file__).parent / "corpus"

needs_fork = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@dataclass
class Tried:
    """What became of the cases."""

    accepted: int = 0
    refused: int = 0
    tracebacks: int = 0
    hangs: int = 0
    crashes: int = 0
    peak_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.accepted + self.refused + self.tracebacks + self.hangs + self.crashes

    def report(self, record: Callable[[str, object], None], kind: str) -> None:
        """Record the figures, which `benchmarks.reliability` reads, and fail if a case failed."""
        figures: Mapping[str, object] = {"kind": kind, "cases": self.cases, **self.__dict__}
        for name, value in figures.items():
            if name != "failures":
                record(name, value)
        assert not self.failures, "\n".join(self.failures)


def try_all(names: list[str], make: Callable[[str], bytes], attempt: Callable[[Path], bool], path: Path) -> Tried:
    """Write the bytes of each case to `path`, and try them in a process of their own.

    Args:
        names: of the cases; each says all that `make` has to know.
        make: returns the bytes of a case.
        attempt: reads a file that may be anything; true if it was accepted, false if it was refused as it should be.
        path: the file; its suffix is that of the kept ones.
    """
    tried, index = Tried(), 0
    while index < len(names):
        for outcome in _outcomes(names[index:], make, attempt, path):
            kind = outcome["outcome"]
            tried.peak_bytes = max(tried.peak_bytes, outcome["peak_bytes"])
            setattr(tried, kind, getattr(tried, kind) + 1)
            if kind not in ("accepted", "refused"):
                kept = _keep(names[index], make, path)
                tried.failures.append(f"{names[index]} ({kept}): {kind}: {outcome['text']}")
            index += 1
    return tried


def _keep(name: str, make: Callable[[str], bytes], path: Path) -> Path:
    folder = CORPUS / ("models" if path.suffix == ".onnx" else "images")
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{'-'.join(name.replace('.', ' ').split())}{path.suffix}"
    kept.write_bytes(make(name))
    return kept


def _outcomes(
    names: list[str], make: Callable[[str], bytes], attempt: Callable[[Path], bool], path: Path
) -> Iterator[dict[str, Any]]:
    """The outcomes of the cases, until one of them ends the process; that is the last."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        _try_in_the_child(names, make, attempt, path, sending)
    os.close(sending)
    done = 0
    with os.fdopen(receiving) as lines:
        for line in lines:
            done += 1
            yield json.loads(line)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if done < len(names):
        kind = "hangs" if code in (-signal.SIGXCPU, -signal.SIGALRM) else "crashes"
        yield {"outcome": kind, "text": f"the process ended with {code}", "peak_bytes": 0}


def _try_in_the_child(
    names: list[str], make: Callable[[str], bytes], attempt: Callable[[Path], bool], path: Path, sending: int
) -> None:
    """Try the cases and end the process; each outcome is a line of the pipe."""
    try:
        own = _limit_memory()
        for name in names:
            _limit_time()
            path.write_bytes(make(name))
            text = ""
            try:
                outcome = "accepted" if attempt(path) else "refused"
            except BaseException:
                outcome, text = "tracebacks", traceback.format_exc()
            line = {"outcome": outcome, "text": text, "peak_bytes": max(0, peak_memory_bytes() - own)}
            os.write(sending, json.dumps(line).encode() + b"\n")
    finally:
        os._exit(0)


def _limit_memory() -> int:
    """Let the process have `BYTES` more than now; returns its memory of now, from which its peak is counted."""
    import resource

    import psutil

    # What dies in the child would be paid for by copies of the pages of the parent.
    gc.freeze()
    used = psutil.Process().memory_info()
    if Path("/proc/self/clear_refs").exists():
        # The peak is that of the parent until it is set back.
        Path("/proc/self/clear_refs").write_text("5")
        resource.setrlimit(resource.RLIMIT_AS, (used.vms + BYTES, resource.RLIM_INFINITY))
    return int(used.rss)


def _limit_time() -> None:
    """Let the process run for `SECONDS` from now, and wait for `WAITING_SECONDS`."""
    import resource

    end_if_it_hangs(WAITING_SECONDS)
    # The default action ends the process even inside a loop of a library.
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(spent.ru_utime + spent.ru_stime) + 1 + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
