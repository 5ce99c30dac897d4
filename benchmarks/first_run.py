"""What a newcomer waits for: `self2self --help`, and the demo without its installation.

python -m benchmarks.first_run -o benchmarks/results/first-run.json

The demo's folder is new, so its fit, export and passes are all in the time.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results_file import write_result
from self2self.bench.environment import environment, shown_command

ROOT = Path(__file__).parents[1]
HELP_RUNS = 11


def timed(command: list[str]) -> tuple[float, str]:
    """Wall-clock seconds and stdout of a command that has to succeed."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    seconds = sorted(timed([sys.executable, "cli.py", "--help"])[0] for _ in range(HELP_RUNS))
    with tempfile.TemporaryDirectory() as folder:
        demo_seconds, text = timed([sys.executable, "examples/demo.py", folder])
    scores = {name: float(value) for name, value in re.findall(r"^(\w+) +PSNR +([+-]?[\d.]+) dB", text, re.MULTILINE)}
    result = {
        "command": shown_command("python -m benchmarks.first_run"),
        **environment(),
        "help_seconds": {"median": seconds[len(seconds) // 2], "least": seconds[0], "most": seconds[-1]},
        "demo_seconds": demo_seconds,
        "demo_psnr": scores,
    }
    print(json.dumps(result, indent=1))
    write_result(args.output, result)


if __name__ == "__main__":
    main()
