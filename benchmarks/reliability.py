"""Kill commands, mutate files and soak, and write what became of it: the figures of docs/reliability.md.

    python -m benchmarks.reliability -o benchmarks/results/reliability.json
    python -m benchmarks.reliability --only kills -o benchmarks/results/reliability.json

The parts are tests with more cases than continuous integration tries (`tests/test_kills.py`, `tests/limited.py`), whose
figures come through the file that pytest writes for ``--junitxml``, and `benchmarks.soak`. A part that is made again
replaces its rows; the others stay. A test that fails ends in exit code 1, after the file is written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as Xml
from pathlib import Path
from typing import Any

from benchmarks.results_file import Row, provenance, result_parser, write_result
from benchmarks.soak import soak_rows

ROOT = Path(__file__).parents[1]
TESTS = {
    "kills": ["tests/test_kills.py", "-k", "killed"],
    "disk": ["tests/test_kills.py", "-k", "disk or folder"],
    "fuzz": ["tests/runtime/test_fuzz_models.py", "tests/image_io/test_fuzz_images.py"],
}
PARTS = (*TESTS, "soak")
COUNTS = ("tried", "survived", "lost", "left", "moments", "covered", "cases")
FATES = ("accepted", "refused", "tracebacks", "hangs", "crashes")


def run_tests(part: str, variables: dict[str, str], processes: int) -> tuple[list[Row], bool]:
    """Run the tests of `part`; returns the figures that they recorded, and whether all of them passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(processes), f"--junitxml={report}", *TESTS[part]]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, check=False)
        return recorded(report.read_bytes()), done.returncode == 0


def recorded(report: bytes) -> list[Row]:
    """The figures of each test in a file of ``--junitxml`` that recorded some."""
    rows = []
    for case in Xml.fromstring(report).iter("testcase"):  # noqa: S314 - our own file
        values = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
        if values:
            rows.append({name: int(text) if text.isdecimal() else text for name, text in values.items()})
    return rows


def added(rows: list[Row], part: str, by: str) -> list[Row]:
    """The rows with the same value of the field `by` added up; of peaks the largest counts."""
    found: dict[Any, Row] = {}
    for row in rows:
        into = found.setdefault(row[by], {"part": part, "what": row[by]})
        for name, value in row.items():
            if name in COUNTS or name in FATES:
                into[name] = into.get(name, 0) + value
            elif name == "peak_bytes":
                peak = round(value / 1e6, 1)
                into["peak_megabytes"] = max(into.get("peak_megabytes", 0), peak)
    return list(found.values())


def figures(part: str, rows: list[Row]) -> list[Row]:
    """The rows of the result: by command what became of kills, by kind that of full disks and of mutated files."""
    if part == "fuzz":
        return added(rows, part, "kind")
    if part == "disk":
        return added(rows, part, "what")
    total = added([{**row, "what": "all commands"} for row in rows], part, "what")
    return [*added(rows, part, "command"), *total]


def main() -> None:
    """Make the parts that are asked for, and write them into the result."""
    parser = result_parser(__doc__)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="which parts to make")
    parser.add_argument("--kills", type=int, default=200, help="kills at steps of the commands")
    parser.add_argument("--cases", type=int, default=5000, help="mutated images, and as many models")
    parser.add_argument("--images", type=int, default=300, help="images of the soak in one process")
    parser.add_argument("--calls", type=int, default=50, help="calls from Python in threads")
    parser.add_argument("--seed", type=int, default=0, help="of kills and mutations")
    parser.add_argument("--processes", type=int, default=1, help="tests at the same time")
    arguments = parser.parse_args()
    variables = {"KILLS": arguments.kills, "FUZZ": arguments.cases}
    variables |= {"KILLS_SEED": arguments.seed, "FUZZ_SEED": arguments.seed}
    passed = True
    for part in arguments.only:
        if part == "soak":
            rows = [{"part": part, **row} for row in soak_rows(arguments.images, arguments.calls)]
        else:
            texts = {name: str(value) for name, value in variables.items()}
            tested, passed_now = run_tests(part, texts, arguments.processes)
            rows, passed = figures(part, tested), passed and passed_now
        _put(arguments.output, part, rows)
    sys.exit(not passed)


def _put(path: Path, part: str, rows: list[Row]) -> None:
    """Replace the rows of `part` in the file at `path`."""
    stored = json.loads(path.read_text()) if path.is_file() else {"made": {}, "rows": []}
    others = [row for row in stored["rows"] if row["part"] != part]
    write_result(path, {"made": {**stored["made"], part: provenance("reliability")}, "rows": [*others, *rows]})


if __name__ == "__main__":
    main()
