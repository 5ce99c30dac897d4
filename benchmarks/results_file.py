"""A results file that is written after every row, so that a benchmark goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from self2self.bench.environment import environment, shown_command
from self2self.machine.files import atomic_write

Row = dict[str, Any]
KEYS = ("image", "method")
"""What tells two rows of a file apart."""
MEAN_DIGITS = {"psnr": 3, "ssim": 3, "gmsd": 4}
"""Scores that have a mean, and to how many digits."""


class ResultsFile:
    """Rows of one benchmark, on the disk at any time.

    Args:
        path: the file; the rows that it has are kept.
        program: how the benchmark is started, for the record.
        settings: what all rows of the file have in common.

    Raises:
        SystemExit: the file was made with other settings.
    """

    def __init__(self, path: Path, program: str, settings: Mapping[str, Any]) -> None:
        self._path = path
        # As they are read back: JSON has no tuples.
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
        """The row of `method` for `image`, if what it depends on has not changed since it was measured."""
        for row in self.rows:
            if (row["image"], row["method"]) == (image, method) and row["inputs"] == dict(inputs):
                return row
        return None

    def means(self) -> dict[str, dict[str, float]]:
        """`mean_scores` of all rows."""
        return mean_scores(self.rows)

    def put(self, row: Row) -> None:
        """Add `row` in the place of an earlier one of its kind, and write the file."""
        for index, other in enumerate(self.rows):
            if all(other[key] == row[key] for key in KEYS):
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
    """Write a result as JSON, whole or not at all; an older one is replaced."""
    atomic_write(path, (json.dumps(values, indent=1) + "\n").encode())


def mean_scores(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Mean scores of each method, and over how many images; fits that are not finished do not count."""
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
