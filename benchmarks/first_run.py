"""Measure the waiting time of a new user: `self2self --help`, and the demo without its installation.

    python -m benchmarks.first_run -o benchmarks/results/first-run.json

The demo runs in a new folder, so its time includes fit, export and passes.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

from benchmarks.results_file import provenance, result_parser, timed_command, write_result

ROOT = Path(__file__).parents[1]
HELP_RUNS = 11


def main() -> None:
    """Measure, print and write."""
    args = result_parser(__doc__).parse_args()
    seconds = sorted(timed_command([sys.executable, "cli.py", "--help"], ROOT)[0] for _ in range(HELP_RUNS))
    with tempfile.TemporaryDirectory() as folder:
        demo_seconds, text = timed_command([sys.executable, "examples/demo.py", folder], ROOT)
    scores = {name: float(value) for name, value in re.findall(r"^(\w+) +PSNR +([+-]?[\d.]+) dB", text, re.MULTILINE)}
    result = {
        **provenance("first_run"),
        "help_seconds": {"median": seconds[len(seconds) // 2], "least": seconds[0], "most": seconds[-1]},
        "demo_seconds": demo_seconds,
        "demo_psnr": scores,
    }
    print(json.dumps(result, indent=1))
    write_result(args.output, result)


if __name__ == "__main__":
    main()
