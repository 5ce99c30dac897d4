"""The file of `--log` has what the command printed, and what it did not print."""

from __future__ import annotations

import re
from pathlib import Path

from tests.commands import run_cli


def test_the_log_has_results_notes_and_errors_with_times(work: Path) -> None:
    result = run_cli("infer", "--passes", "2", "--quiet", "--log", "log.txt")
    assert result.stdout == ""
    lines = (work / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    text = "\n".join(lines)
    assert "self2self " in lines[0]
    assert "noisy.denoised.png: written" in text
    assert "2 passes with" in text, "the details of --verbose are there, too"
    run_cli("infer", "--passes", "0", "--log", "log.txt", expect=2)
    again = (work / "log.txt").read_text()
    assert again.startswith(text), "a log is added to"
    assert "error: --passes is 0" in again


def test_a_log_that_cannot_be_written_is_one_line(work: Path) -> None:
    told = run_cli("infer", "--log", "nothing/log.txt", expect=2).stderr
    assert told.startswith("error: --log nothing/log.txt: cannot be written")
    assert len(told.splitlines()) == 1


def test_verbose_adds_lines_to_the_one(work: Path) -> None:
    short = run_cli("infer", "--passes", "2", "-o", "a.png").stdout.splitlines()
    long = run_cli("infer", "--passes", "2", "-o", "b.png", "--verbose").stdout.splitlines()
    assert len(short) == 1
    assert len(long) == 3
