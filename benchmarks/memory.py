"""Peak memory of an ensemble: of `infer`, and of the plain PyTorch loop, each in a process of its own.

    python -m benchmarks.memory --size 8192 --memory 2GB --passes 1 --network narrow --engine ort

The image is noise: RGB with 16 bits, in a TIFF. A measured process reads it, runs the ensemble and
writes the result, as `infer` does. What it takes is its peak less what the interpreter has with
the libraries loaded and nothing read yet.
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

from self2self.bench.environment import environment, shown_command

WIDTHS = {"paper": (48, (96, 96, 96, 96, 96)), "narrow": (16, (32, 32, 32, 16, 16)), "tiny": (4, (6, 6, 6, 4, 4))}
"""Encoder and decoder widths of the networks; their weights are random, which memory does not mind."""


def peak_bytes() -> int:
    """The most memory of this process; unlike getrusage's, without that of its parent before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell VmHWM")


def prepare(folder: Path, size: int, network: str) -> None:
    """Write ``model.onnx`` and ``image.tif``, row by row, into `folder`."""
    import numpy as np
    import tifffile
    import torch

    from self2self.contract import Contract, mask_specs, quantise_keep
    from self2self.export.to_onnx import to_onnx
    from self2self.train.network import Self2SelfNet, initialise

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


def measure_infer(folder: Path, engine: str, passes: int, memory: int | None) -> dict[str, Any]:
    """`infer` in this process."""
    from self2self.image_io import read_image, write_image  # noqa: F401
    from self2self.jobs import InferOptions, Observer, infer_job
    from self2self.runtime.engine import get_engine

    get_engine(engine)
    import imagecodecs  # noqa: F401
    import onnx  # noqa: F401
    import tifffile  # noqa: F401

    own = peak_bytes()
    start = time.perf_counter()
    options = InferOptions(engine=engine, passes=passes, output=folder / "out.tif", memory=memory)
    done = infer_job(folder / "model.onnx", [folder / "image.tif"], options, Observer())[0].denoised
    seconds = time.perf_counter() - start
    return {
        "engine": done.engine,
        "tile": done.tile,
        "tiles": done.tiles,
        "batch": done.batch,
        "seconds": round(seconds, 2),
        "interpreter_bytes": own,
        "peak_bytes": peak_bytes() - own,
    }


def measure_plain(folder: Path, passes: int) -> dict[str, Any]:
    """The plain PyTorch loop in this process."""
    import torch

    from self2self.bench.plain import PlainSelf2Self, plain_ensemble
    from self2self.image_io import read_image
    from self2self.train.network import Self2SelfNet

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
    return {"seconds": round(seconds, 2), "interpreter_bytes": own, "peak_bytes": peak_bytes() - own}


def main() -> None:
    """Measure and add to the results file."""
    from self2self.options import parse_memory

    parser = argparse.ArgumentParser(description="Peak memory of an ensemble.")
    parser.add_argument("--size", type=int, default=512, help="height and width, a multiple of 16")
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--memory", help="as for infer, for example 2GB")
    parser.add_argument("--network", choices=WIDTHS, default="paper")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--plain", action="store_true", help="measure the plain loop too")
    parser.add_argument("-o", "--output", type=Path, help="JSON file; runs are added to those that it has")
    parser.add_argument("--measure", choices=["prepare", "infer", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure == "prepare":
        prepare(arguments.folder, arguments.size, arguments.network)
        return
    if arguments.measure is not None:
        memory = parse_memory(arguments.memory)
        values = (
            measure_infer(arguments.folder, arguments.engine, arguments.passes, memory)
            if arguments.measure == "infer"
            else measure_plain(arguments.folder, arguments.passes)
        )
        print(json.dumps(values))
        return
    entry: dict[str, Any] = {
        "command": shown_command("benchmarks.memory"),
        "size": arguments.size,
        "passes": arguments.passes,
        "memory": arguments.memory,
        "network": arguments.network,
    }
    with tempfile.TemporaryDirectory() as folder:

        def child(what: str) -> str:
            command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--measure", what, "--folder", folder]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout

        child("prepare")
        entry["infer"] = json.loads(child("infer").splitlines()[-1])
        if arguments.plain:
            entry["plain"] = json.loads(child("plain").splitlines()[-1])
            entry["ratio"] = round(entry["infer"]["peak_bytes"] / entry["plain"]["peak_bytes"], 3)
    print(json.dumps(entry, indent=2))
    if arguments.output is not None:
        runs = json.loads(arguments.output.read_text())["runs"] if arguments.output.is_file() else []
        arguments.output.write_text(json.dumps({"environment": environment(), "runs": [*runs, entry]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
