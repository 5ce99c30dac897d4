"""Measure the time of an export of the paper's network, and of a build of its TensorRT-RTX engine.

    python -m benchmarks.export_time -o benchmarks/results/export-time.json

The network has random weights, and the model file is fixed to one image size. TensorRT-RTX builds for the default
compute capabilities of `self2self export --engine trt-rtx`. Each part runs in a process of its own, so that its time
includes the imports. The result is the best of `--runs`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.results_file import provenance, result_parser, timed_command, write_result

SIZE = (512, 512)
TIME_LIMITS = {"export": 30.0, "trt-rtx": 20.0}
"""Upper limit for the seconds of each part; the result says whether it was reached."""


def export(folder: Path, size: tuple[int, int]) -> dict[str, float]:
    """Export the network and verify the file against PyTorch, as `self2self export` does; return the seconds."""
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
    """Build an engine from the file that `export` wrote; return the seconds."""
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
    """Run `part` in a fresh process; return the times that it measured and, as ``all``, the time of the process."""
    command = [sys.executable, "-m", "benchmarks.export_time", "--part", part, "--side", str(side), "-o", str(folder)]
    process_seconds, output = timed_command(command)
    seconds: dict[str, float] = json.loads(output.splitlines()[-1])
    return {**seconds, "all": process_seconds}


def measure(side: int, runs: int) -> dict[str, Any]:
    """Run all parts `runs` times; each export is followed by a build of its engine."""
    times: dict[str, list[dict[str, float]]] = {part: [] for part in PARTS}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for part in PARTS:
                times[part].append(in_a_process(part, Path(folder), side))
                print(part, {key: round(value, 2) for key, value in times[part][-1].items()}, flush=True)
    results = {}
    for part, found in times.items():
        best = min(found, key=lambda seconds: seconds["all"])
        results[part] = {
            "seconds": best,
            "runs": found,
            "limit": TIME_LIMITS[part],
            "reached": best["all"] < TIME_LIMITS[part],
        }
    return results


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("--runs", type=int, default=3, help="repetitions; the fastest counts")
    parser.add_argument("--side", type=int, default=SIZE[0], help="height and width of the image size")
    parser.add_argument("--part", choices=list(PARTS), help="run this part alone, in the folder that -o names")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args.output, (args.side, args.side))))
        return
    parts = measure(args.side, args.runs)
    result = {**provenance("export_time"), "size": [args.side, args.side], "parts": parts}
    write_result(args.output, result)
    for part, found in parts.items():
        word = "reached" if found["reached"] else "not reached"
        print(f"{part}: {found['seconds']['all']:.1f} s (under {found['limit']:g} s: {word})")


if __name__ == "__main__":
    main()
