"""Measure the peak memory of `infer`, `denoise` and the plain PyTorch loop, each in a process of its own.

    python -m benchmarks.memory --size 512 --passes 50 --plain 4 -o RESULT.json
    python -m benchmarks.memory --size 256 --network narrow --passes 50 500 5000 -o RESULT.json
    python -m benchmarks.memory --size 8192 --memory 2GB --passes 1 --network narrow -o RESULT.json
    python -m benchmarks.memory --size 4096 --memory 2GB --passes 1 --steps 10 -o RESULT.json

The image is a TIFF with noise, RGB in 16 bits. A measured process reads it, runs the ensemble and writes the result, as
`infer` does. With `--steps`, the process first fits the `fast` recipe's network to the image, from the start weights,
as `denoise` does. The result is the peak of the process, less the memory of the interpreter with all libraries loaded
and no file read. Memory does not depend on the speed of the machine, so this benchmark may run next to other work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results_file import provenance, write_result

WIDTHS = {"paper": (48, (96, 96, 96, 96, 96)), "narrow": (16, (32, 32, 32, 16, 16)), "tiny": (4, (6, 6, 6, 4, 4))}
"""Encoder and decoder widths of the networks; their weights are random, because memory does not depend on them."""


def peak_bytes() -> int:
    """Return the peak memory of this process; unlike the value of getrusage, it excludes the parent before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM; this benchmark needs Linux")


def prepare(folder: Path, size: int, network: str) -> None:
    """Write ``model.onnx``, ``weights.pt`` and ``image.tif`` into `folder`; the image is written in strips."""
    import numpy as np
    import tifffile
    import torch

    from self2self.export.to_onnx import to_onnx
    from self2self.model.contract import Contract, mask_specs, quantise_keep
    from self2self.model.network import Self2SelfNet, initialise

    encoder, decoder = WIDTHS[network]
    net = Self2SelfNet(3, encoder, decoder, quantise_keep(0.4) / 256)
    initialise(net, "kaiming", torch.Generator().manual_seed(0))
    to_onnx(net, Contract(3, mask_specs(3, encoder, decoder, 0.4, 0.4)), folder / "model.onnx")
    torch.save({"network": network, "weights": net.state_dict()}, folder / "weights.pt")
    rng = np.random.default_rng(0)
    rows = (rng.integers(0, 2**16, (16, size, 3), np.uint16) for _ in range(size // 16))
    tifffile.imwrite(
        folder / "image.tif", rows, shape=(size, size, 3), dtype=np.uint16, rowsperstrip=16, photometric="rgb"
    )


def measure_ours(folder: Path, engine: str, passes: int, memory: int | None, steps: int | None) -> dict[str, Any]:
    """Run `infer` in this process, or `denoise` with a fit of `steps`; return its peak memory."""
    from self2self.image_io import read_image, write_image  # noqa: F401
    from self2self.jobs import EnsembleOptions, FitOptions, Observer, OutputOptions, denoise_job, infer_job
    from self2self.runtime.engines.registry import get_engine

    get_engine(engine)
    import imagecodecs  # noqa: F401
    import onnx  # noqa: F401
    import tifffile  # noqa: F401

    if steps is not None:
        import torch

        import self2self.export.to_onnx
        import self2self.train.fit  # noqa: F401

        torch.zeros(1)
    own = peak_bytes()
    start = time.perf_counter()
    options = EnsembleOptions(engine=engine, passes=passes, memory=memory)
    outputs = OutputOptions(output=folder / "out.tif", force=True)
    if steps is None:
        finished = infer_job(folder / "model.onnx", [folder / "image.tif"], options, outputs, Observer())[0]
    else:
        fitting = FitOptions(steps=steps, run=folder / "run")
        finished = denoise_job(folder / "image.tif", fitting, options, outputs)
    seconds = time.perf_counter() - start
    done = finished.ensemble
    return {
        "engine": done.engine,
        "passes": done.passes,
        "tile": done.tile,
        "tiles": done.tiles,
        "batch": done.batch,
        "seconds": round(seconds, 2),
        "interpreter_bytes": own,
        "peak_bytes": peak_bytes() - own,
    }


def measure_plain(folder: Path, passes: int) -> dict[str, Any]:
    """Run the plain PyTorch loop in this process; return its peak memory."""
    import torch

    from self2self.bench.plain_loop import PlainSelf2Self, plain_ensemble
    from self2self.image_io import read_image
    from self2self.model.network import Self2SelfNet

    stored = torch.load(folder / "weights.pt")
    encoder, decoder = WIDTHS[stored["network"]]
    network = Self2SelfNet(3, encoder, decoder, 0.6)
    network.load_state_dict(stored["weights"])
    plain = PlainSelf2Self.from_network(network)
    del network
    own = peak_bytes()
    start = time.perf_counter()
    plain_ensemble(plain, torch.from_numpy(read_image(folder / "image.tif").pixels)[None], passes)
    seconds = time.perf_counter() - start
    return {"passes": passes, "seconds": round(seconds, 2), "interpreter_bytes": own, "peak_bytes": peak_bytes() - own}


def main() -> None:
    """Measure, print, and add the run to the results file."""
    from self2self.cli.options import parse_memory

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="height and width, a multiple of 16")
    parser.add_argument("--passes", type=int, nargs="+", default=[50], help="one or more numbers, one process each")
    parser.add_argument("--memory", help="as for infer, for example 2GB")
    parser.add_argument("--network", choices=WIDTHS, default="paper", help="network of the model")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--steps", type=int, help="first fit with this number of steps, as denoise does")
    parser.add_argument("--plain", type=int, metavar="PASSES", help="also measure the plain loop")
    parser.add_argument("-o", "--output", type=Path, help="JSON file; runs are added to those that it has")
    parser.add_argument("--measure", choices=["prepare", "ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure == "prepare":
        prepare(arguments.folder, arguments.size, arguments.network)
        return
    if arguments.measure is not None:
        passes, memory = arguments.passes[-1], parse_memory(arguments.memory)
        values = (
            measure_ours(arguments.folder, arguments.engine, passes, memory, arguments.steps)
            if arguments.measure == "ours"
            else measure_plain(arguments.folder, arguments.plain)
        )
        print(json.dumps(values))
        return
    entry = measured_run(arguments)
    print(json.dumps(entry, indent=2))
    if arguments.output is not None:
        runs = json.loads(arguments.output.read_text())["runs"] if arguments.output.is_file() else []
        write_result(arguments.output, {"runs": [*runs, entry]})


def measured_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run every measurement in a process of its own; return the entry for the results file."""
    entry: dict[str, Any] = {
        **provenance("memory"),
        "size": arguments.size,
        "memory": arguments.memory,
        "network": arguments.network if arguments.steps is None else "fast",
        "fit_steps": arguments.steps,
    }
    with tempfile.TemporaryDirectory() as folder:

        def child(what: str, *more: str) -> dict[str, Any]:
            command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--measure", what, "--folder", folder]
            done = subprocess.run([*command, *more], check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
            measured: dict[str, Any] = json.loads((done.stdout.splitlines() or ["{}"])[-1])
            return measured

        child("prepare")
        entry["ours"] = [child("ours", "--passes", str(passes)) for passes in arguments.passes]
        if arguments.plain is not None:
            entry["plain"] = child("plain")
    peaks = [run["peak_bytes"] for run in entry["ours"]]
    return entry | peak_ratios(peaks, entry.get("plain", {}).get("peak_bytes"))


def peak_ratios(ours: list[int], plain: int | None) -> dict[str, float]:
    """Return the ratios of the largest peak of `ours` to the peak of the plain loop and to the smallest of `ours`."""
    ratios = {} if plain is None else {"ratio_to_plain": round(max(ours) / plain, 3)}
    return ratios | ({"most_to_least": round(max(ours) / min(ours), 3)} if len(ours) > 1 else {})


if __name__ == "__main__":
    main()
