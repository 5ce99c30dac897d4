"""Measure how soon the command answers where it has nothing to compute.

    python -m benchmarks.start_up -o benchmarks/results/start-up.json

Each answer is timed in a process of its own, ten times (`--runs`), in turns, after one run that is not counted. The
result has the median, the fastest and the slowest, and the median of the processor time, which a machine that is busy
with other work changes less.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks.results_file import provenance, result_parser, write_result

ANSWERS: dict[str, tuple[list[str], int, float]] = {
    "help": (["--help"], 0, 0.3),
    "help of denoise": (["denoise", "--help"], 0, 0.3),
    "version": (["--version"], 0, 0.3),
    "no such option": (["denoise", "image.png", "--nothing"], 2, 1.0),
    "wrong value": (["denoise", "image.png", "--passes", "many"], 2, 1.0),
    "no such file": (["denoise", "missing.png"], 3, 1.0),
    "exists already": (["denoise", "image.png"], 2, 1.0),
    "runs list": (["runs", "list"], 0, 1.0),
}
"""The arguments, the exit code, and the largest number of seconds that is promised."""


def answer(arguments: list[str], exit_code: int, folder: Path) -> tuple[float, float]:
    """Let the command answer in `folder`; returns the seconds until its process has ended, and its processor time.

    Raises:
        SystemExit: it ends with another exit code.
    """
    start, used = time.perf_counter(), psutil.Process().cpu_times()
    done = subprocess.run(
        [sys.executable, "-m", "self2self", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    seconds, total = time.perf_counter() - start, psutil.Process().cpu_times()
    if done.returncode != exit_code:
        raise SystemExit(f"{arguments}: exit code {done.returncode}; expected {exit_code}. {done.stderr}")
    before, after = (times.children_user + times.children_system for times in (used, total))
    return seconds, after - before


def main() -> None:
    """Run the benchmark."""
    parser = result_parser(__doc__)
    parser.add_argument("--runs", type=int, default=10, help="number of timed runs of each answer")
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ANSWERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for file in ("image.png", "image.denoised.png"):
            Image.fromarray(pixels).save(folder / file)
        for run in range(options.runs + 1):
            for what, (arguments, exit_code, _) in ANSWERS.items():
                measured = answer(arguments, exit_code, folder)
                if run:
                    times[what].append(measured)
    rows = {}
    for what, pairs in times.items():
        seconds, processor = ([pair[index] for pair in pairs] for index in (0, 1))
        rows[what] = {
            "arguments": ANSWERS[what][0],
            "median_seconds": round(statistics.median(seconds), 3),
            "fastest_seconds": round(min(seconds), 3),
            "slowest_seconds": round(max(seconds), 3),
            "processor_seconds": round(statistics.median(processor), 3),
            "promised_seconds": ANSWERS[what][2],
        }
    write_result(options.output, {**provenance("start_up"), "runs": options.runs, "answers": rows})
    for what, row in rows.items():
        print(f"{what:16} {row['median_seconds']:.2f} s, promised {row['promised_seconds']:g} s")


if __name__ == "__main__":
    main()
