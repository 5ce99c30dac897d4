"""How long a user waits for an export of the paper's network, and for an engine of TensorRT-RTX.

    python -m benchmarks.export_time -o benchmarks/results/export-time.json

The network has random weights and a model file that is fixed to the size; TensorRT-RTX builds for the
compute capabilities that `self2self export --engine trt-rtx` builds for by default. Each part runs in
a process of its own, so that importing its libraries counts: the best of `--runs`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.results_file import write_result
from self2self.bench.environment import environment, shown_command

SIZE = (512, 512)
LIMITS = {"export": 30.0, "trt-rtx": 20.0}
"""Seconds that are to be reached."""


def export(folder: Path, size: tuple[int, int]) -> dict[str, float]:
    """Trace, write, run at another size and batch, and compare with PyTorch, as `self2self export` does."""
    from self2self.export import export_model
    from self2self.model.contract import Contract
    from self2self.model.network import Self2SelfNet
    from self2self.train.recipes import recipe_for

    recipe = recipe_for("paper")
    masks = recipe.masks(3)
    network = Self2SelfNet(3, recipe.encoder_width, recipe.decoder_widths, masks[-1].keep_probability).eval()
    contract = Contract(3, masks, recipe=recipe.name)
    start = time.perf_counter()
    verification = export_model(network, contract, folder / "model.onnx", size=size)
    return {"export": time.perf_counter() - start, "verify": verification.seconds}


def engine(folder: Path, size: tuple[int, int]) -> dict[str, float]:
    """Build an engine from the file that `export` wrote."""
    from self2self.runtime.engines.profiles import Profile
    from self2self.runtime.engines.tensorrt.builder import TENSORRT_RTX
    from self2self.runtime.engines.tensorrt.cache import load_or_build, request_for
    from self2self.runtime.model import load_model

    path = folder / "model.onnx"
    request = request_for(TENSORRT_RTX, path, load_model(path).contract, Profile.fixed(size), fixed_size=size)
    start = time.perf_counter()
    load_or_build(request, bytes, lambda text: None)
    return {"build": time.perf_counter() - start}


PARTS: dict[str, Callable[[Path, tuple[int, int]], dict[str, float]]] = {"export": export, "trt-rtx": engine}


def in_a_process(part: str, folder: Path, side: int) -> dict[str, float]:
    """Run `part` in a fresh process; its own times and, as ``all``, that of the process."""
    command = [sys.executable, "-m", "benchmarks.export_time", "--part", part, "--side", str(side), "-o", str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**seconds, "all": time.perf_counter() - start}


def measure(side: int, runs: int) -> dict[str, Any]:
    """Every part `runs` times, each export with an engine of its own."""
    times: dict[str, list[dict[str, float]]] = {part: [] for part in PARTS}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for part in PARTS:
                times[part].append(in_a_process(part, Path(folder), side))
                print(part, {key: round(value, 2) for key, value in times[part][-1].items()}, flush=True)
    results = {}
    for part, found in times.items():
        best = min(found, key=lambda seconds: seconds["all"])
        results[part] = {"seconds": best, "runs": found, "limit": LIMITS[part], "reached": best["all"] < LIMITS[part]}
    return results


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side", type=int, default=SIZE[0])
    parser.add_argument("--part", choices=list(PARTS), help="run this alone, in the folder that -o names")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args.output, (args.side, args.side))))
        return
    parts = measure(args.side, args.runs)
    result = {
        "command": shown_command("python -m benchmarks.export_time"),
        **environment(),
        "size": [args.side, args.side],
        "parts": parts,
    }
    write_result(args.output, result)
    for part, found in parts.items():
        word = "reached" if found["reached"] else "not reached"
        print(f"{part}: {found['seconds']['all']:.1f} s (under {found['limit']:g} s: {word})")


if __name__ == "__main__":
    main()
