"""Command lines and results of the benchmarks.

`ResultsFile` writes its file after every row, so that an interrupted benchmark continues where it stopped. This module
imports no heavy library, because some benchmarks measure how long imports take.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.bench.environment import environment, shown_command
from self2self.machine.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
ROW_KEYS = ("image", "method")
"""Fields that identify a row of a `ResultsFile`."""
MEAN_DIGITS = {"psnr": 3, "ssim": 3, "gmsd": 4}
"""Scores that have a mean, and to how many digits."""


def result_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows `description` with its line breaks; it has the option -o for the result."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="file for the result (JSON)")
    return parser


def provenance(benchmark: str) -> Row:
    """Return the first fields of a result: the command line of `benchmarks.BENCHMARK`, and the environment."""
    return {"command": shown_command(f"python -m benchmarks.{benchmark}"), **environment()}


def earlier_rows(path: Path, **settings: Any) -> list[Row]:
    """Rows of an earlier run with the same `settings` into the same file, without those that failed."""
    if not path.is_file():
        return []
    earlier = json.loads(path.read_text())
    if any(earlier.get(name) != value for name, value in settings.items()):
        return []
    return [row for row in earlier["rows"] if "error" not in row]


def measure_images(
    about: str | None,
    benchmark: str,
    rows: Callable[[Path], Iterator[Row]],
    line: Callable[[Row], str],
    draw: Callable[[list[Row]], Figure],
    *,
    summary: Callable[[list[Row]], str] | None = None,
    **settings: Any,
) -> None:
    """Run a benchmark of evaluation images whose result is a row for each image, and perhaps a plot.

    Args:
        about: the help of the command.
        benchmark: name of its module.
        rows: measures the images of a folder.
        line: what is printed of a row as soon as it is measured.
        draw: makes the plot.
        summary: what is printed of all rows in the end; None for nothing.
        settings: further fields of the result.
    """
    parser = result_parser(about)
    parser.add_argument("data", type=Path, help="folder of the evaluation images")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the result (PNG or SVG)")
    args = parser.parse_args()
    found = []
    for row in rows(args.data):
        found.append(row)
        print(line(row), flush=True)
    if summary is not None:
        print(f"\n{summary(found)}")
    write_result(args.output, {**provenance(benchmark), **settings, "rows": found})
    if args.plot is not None:
        draw(found).savefig(args.plot)


def timed_command(command: list[str], folder: Path | None = None) -> tuple[float, str]:
    """Run `command` in `folder` (default: the current one); return its wall-clock seconds and its stdout.

    Raises:
        CalledProcessError: the exit code is not 0.
    """
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


class ResultsFile:
    """Rows of one benchmark; every change is written to the disk at once.

    Args:
        path: the file; its existing rows are kept.
        program: command that starts the benchmark, without arguments.
        settings: settings that all rows of the file share.

    Raises:
        SystemExit: the file was made with other settings.
    """

    def __init__(self, path: Path, program: str, settings: Mapping[str, Any]) -> None:
        self._path = path
        # The round trip turns tuples into lists, as in the stored settings.
        self._settings = json.loads(json.dumps(dict(settings)))
        self.rows: list[Row] = []
        self._commands: list[str] = []
        if path.is_file():
            stored = json.loads(path.read_text())
            if stored.get("settings") != self._settings:
                raise SystemExit(
                    f"{path}: has rows of other settings ({stored.get('settings')}; now {self._settings}). "
                    "Choose another file with -o, or remove this one."
                )
            self.rows, self._commands = stored["rows"], stored["commands"]
        command = shown_command(program)
        if command not in self._commands:
            self._commands.append(command)

    def find(self, image: str, method: str, inputs: Mapping[str, Any]) -> Row | None:
        """Return the row of `method` for `image` if it was measured with the same `inputs`; otherwise None."""
        for row in self.rows:
            if (row["image"], row["method"]) == (image, method) and row["inputs"] == dict(inputs):
                return row
        return None

    def means(self) -> dict[str, dict[str, float]]:
        """Return the `mean_scores` of all rows."""
        return mean_scores(self.rows)

    def put(self, row: Row) -> None:
        """Add `row`, or replace the row with the same `ROW_KEYS`, and write the file."""
        for index, other in enumerate(self.rows):
            if all(other[key] == row[key] for key in ROW_KEYS):
                self.rows[index] = row
                break
        else:
            self.rows.append(row)
        values = {
            "commands": self._commands,
            **environment(),
            "settings": self._settings,
            "mean": self.means(),
            "rows": self.rows,
        }
        write_result(self._path, values)


def write_result(path: Path, values: Mapping[str, Any] | list[Row]) -> None:
    """Write a result as JSON, atomically; an older file is replaced."""
    atomic_write(path, (json.dumps(values, indent=1) + "\n").encode())


def mean_scores(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Return the mean scores of each method and the number of its images; unfinished fits do not count."""
    done = [row for row in rows if "psnr" in row and not row.get("unfinished")]
    table = {}
    for method in dict.fromkeys(row["method"] for row in done):
        chosen = [row for row in done if row["method"] == method]
        table[method] = {
            **{
                key: round(float(np.mean([row[key] for row in chosen])), digits)
                for key, digits in MEAN_DIGITS.items()
                if all(key in row for row in chosen)
            },
            "images": len(chosen),
        }
    return table
