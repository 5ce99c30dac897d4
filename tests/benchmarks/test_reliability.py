"""Figures of reliability are those that the tests have recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability import figures, recorded

pytest_plugins = ["pytester"]

RECORDING = """
import pytest

@pytest.mark.parametrize("command", ["fit", "fit", "infer"])
def test_kills(command, record_property):
    figures = {"command": command, "what": "kills", "tried": 3, "survived": 2, "lost": 1, "left": 0}
    for name, value in figures.items():
        record_property(name, value)
    record_property("moments", 10)
    assert command == "fit"

def test_disk(record_property):
    for name, value in {"command": "fit", "what": "full disks", "tried": 4, "survived": 4}.items():
        record_property(name, value)

@pytest.mark.parametrize("peak", [1_000_000, 2_540_000])
def test_mutated(peak, record_property):
    for name, value in {"kind": "models", "cases": 5, "refused": 4, "accepted": 1, "peak_bytes": peak}.items():
        record_property(name, value)

def test_of_something_else():
    pass
"""


@pytest.fixture
def rows(pytester: pytest.Pytester, tmp_path: Path) -> list[dict[str, object]]:
    pytester.makepyfile(RECORDING)
    report = tmp_path / "report.xml"
    pytester.runpytest_inprocess(f"--junitxml={report}", "-o", "junit_family=xunit1")
    return recorded(report.read_bytes())


def test_kills_are_added_up_by_command_also_of_tests_that_failed(rows: list[dict[str, object]]) -> None:
    kills = figures("kills", [row for row in rows if row.get("what") == "kills"])
    fit = {"tried": 6, "survived": 4, "lost": 2, "left": 0, "moments": 20}
    infer = {"tried": 3, "survived": 2, "lost": 1, "left": 0, "moments": 10}
    assert kills == [
        {"part": "kills", "what": "fit", **fit},
        {"part": "kills", "what": "infer", **infer},
        {"part": "kills", "what": "all commands", **{name: fit[name] + infer[name] for name in fit}},
    ]


def test_full_disks_are_counted_apart(rows: list[dict[str, object]]) -> None:
    disk = figures("disk", [row for row in rows if row.get("what") == "full disks"])
    assert disk == [{"part": "disk", "what": "full disks", "tried": 4, "survived": 4}]


def test_of_peaks_the_largest_counts(rows: list[dict[str, object]]) -> None:
    fuzz = figures("fuzz", [row for row in rows if "kind" in row])
    assert fuzz == [{"part": "fuzz", "what": "models", "cases": 10, "accepted": 2, "refused": 8, "peak_megabytes": 2.5}]
