"""Passes a second of every engine that works here, beside the plain PyTorch loop.

    python -m benchmarks.throughput --size 128 --size 256 -o RESULT.json

The network is the paper's, with random weights. The plain loop is `benchmarks.plain`: the official
formulation, one pass at a time, with its own draws. An engine runs the product's path: the exported
file, masks made on the host, and the sums of the ensemble; `run_ensemble` chooses its batch before
the rounds begin.

Protocol: everything is warmed up at the size that is measured. In each round every method runs the
same number of passes, one method after the other with a rest in between, because the thread pools of
two libraries fight; the order rotates from round to round. Ratios are taken within a round, so that
drift of the machine meets both sides. The ceiling is the matrix product that PyTorch reaches in the
same rounds; an engine with a faster algorithm than direct convolution may exceed it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import environment, shown_command
from benchmarks.measure import convolution_gflop, idle, peak_gflops, spread
from benchmarks.plain import PlainSelf2Self, plain_ensemble
from self2self.contract import MINIMUM_SIZE, SIZE_MULTIPLE, Contract
from self2self.export import export_model
from self2self.files import atomic_write
from self2self.masks import MaskMaker
from self2self.runtime.denoise import largest_batch
from self2self.runtime.engine import Engine, engine_class, engine_statuses
from self2self.runtime.ensemble import Ensemble, run_ensemble
from self2self.runtime.model import Model, load_model
from self2self.train.network import Self2SelfNet, initialise
from self2self.train.recipes import RECIPES

PLAIN = "plain"
CHOOSING_PASSES = 14
"""Enough for `run_ensemble` to try batches of 1, 2 and 4 passes, which warms the engine up too."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the JSON file."""
    options = parse(arguments)
    recipe = replace(RECIPES["paper"], encoder_width=options.encoder_width, decoder_widths=(options.decoder_width,) * 5)
    masks = recipe.masks(options.channels)
    network = Self2SelfNet(
        options.channels, recipe.encoder_width, recipe.decoder_widths, masks[-1].keep_probability
    ).eval()
    initialise(network, recipe.scratch_scheme, torch.Generator().manual_seed(0))
    statuses = engine_statuses()
    result: dict[str, Any] = {
        "benchmark": "throughput",
        "command": shown_command("benchmarks.throughput"),
        "environment": environment(),
        "engines": {status.name: status.version for status in statuses if status.works},
        "unavailable": {status.name: status.problem for status in statuses if not status.works},
        "network": {
            "channels": options.channels,
            "encoder_width": recipe.encoder_width,
            "decoder_widths": recipe.decoder_widths,
            "parameters": sum(weight.numel() for weight in network.parameters()),
        },
        "rounds": options.rounds,
        "passes_per_round": options.passes,
        "sizes": [],
    }
    print(f"$ {result['command']}")
    print(f"{result['environment']['cpu']}, {result['environment']['cpus']} CPUs")
    print(", ".join(f"{name} {number}" for name, number in result["environment"]["versions"].items()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        start = time.perf_counter()
        export_model(network, Contract(options.channels, masks, recipe=recipe.name), path)
        result["export_seconds"] = time.perf_counter() - start
        model = load_model(path)
        for size in options.size:
            entry = measure(network, model, size, options)
            result["sizes"].append(entry)
            print(table(entry), flush=True)
    atomic_write(options.output, json.dumps(result, indent=2).encode() + b"\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, action="append", help="side of the square image; may be given often")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3, help="passes of each method in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, help="passes a run; chosen by speed if not given")
    parser.add_argument("--encoder-width", type=int, default=48)
    parser.add_argument("--decoder-width", type=int, default=96)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.size = options.size or [128, 256]
    if any(size % SIZE_MULTIPLE or size < MINIMUM_SIZE for size in options.size):
        parser.error(f"--size: expected multiples of {SIZE_MULTIPLE} from {MINIMUM_SIZE} up")
    if min(options.passes, options.rounds, options.batch or 1) < 1:
        parser.error("--passes, --rounds and --batch: expected at least 1")
    return options


@dataclass
class Prepared:
    """An engine that is warm, and what its rounds took."""

    engine: Engine
    batch: int
    prepare_seconds: float
    rounds: list[Ensemble] = field(default_factory=list)


def measure(network: Self2SelfNet, model: Model, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """All rounds at one size; the entry of the JSON document."""
    image = np.random.default_rng(0).random((1, network.channels, size, size), dtype=np.float32)
    maker = MaskMaker(model.contract.masks, {"H": size, "W": size}, seed=0)
    plain, pixels = PlainSelf2Self.from_network(network).eval(), torch.from_numpy(image)
    gflop = convolution_gflop(plain, pixels, torch.ones_like(pixels))
    plain_seconds: list[float] = []
    peaks: list[float] = []
    with ExitStack() as stack:
        prepared: dict[str, Prepared] = {}
        for status in engine_statuses():
            if status.works:
                prepared[status.name] = prepare(stack, status.name, model, image, maker, options.batch)
        methods = [PLAIN, *prepared]
        for index in range(options.rounds):
            idle()
            peaks.append(peak_gflops())
            first = index % len(methods)
            for method in methods[first:] + methods[:first]:
                idle()
                if method == PLAIN:
                    start = time.perf_counter()
                    plain_ensemble(plain, pixels, options.passes, RECIPES["paper"].input_drop_rate)
                    plain_seconds.append(time.perf_counter() - start)
                else:
                    one = prepared[method]
                    one.rounds.append(run_ensemble(one.engine, maker, options.passes, batch=one.batch))
        peak = spread(peaks)
        return {
            "size": size,
            "gflop_per_pass": gflop,
            "matrix_product_gflops": peak,
            PLAIN: speed(plain_seconds, options.passes, gflop, peak["median"]),
            "engines": {
                name: engine_entry(one, plain_seconds, options.passes, gflop, peak["median"])
                for name, one in prepared.items()
            },
        }


def prepare(
    stack: ExitStack, name: str, model: Model, image: np.ndarray[Any, Any], maker: MaskMaker, batch: int | None
) -> Prepared:
    """Open an engine until `stack` closes, warm it up, and choose its batch."""
    idle()
    start = time.perf_counter()
    engine = stack.enter_context(engine_class(name)(model, image))
    seconds = time.perf_counter() - start
    largest = largest_batch(model.contract, {"H": image.shape[2], "W": image.shape[3]})
    chosen = run_ensemble(engine, maker, 2 * batch if batch else CHOOSING_PASSES, batch=batch, largest_batch=largest)
    return Prepared(engine, chosen.batch, seconds)


def total_seconds(ensemble: Ensemble) -> float:
    """Time of an ensemble, with masks and reduction."""
    return ensemble.mask_seconds + ensemble.pass_seconds + ensemble.reduce_seconds


def speed(seconds: Sequence[float], passes: int, gflop: float, peak: float) -> dict[str, Any]:
    """Passes a second and milliseconds a pass over the rounds, and the share of the ceiling."""
    rate = spread([passes / value for value in seconds])
    return {
        "passes_per_second": rate,
        "ms_per_pass": spread([1e3 * value / passes for value in seconds]),
        "share_of_matrix_product": rate["median"] * gflop / peak,
    }


def engine_entry(
    one: Prepared, plain_seconds: Sequence[float], passes: int, gflop: float, peak: float
) -> dict[str, Any]:
    """What an engine took, by part, and its ratio to the plain loop of the same round."""
    totals = [total_seconds(ensemble) for ensemble in one.rounds]
    parts = {
        "masks": [ensemble.mask_seconds for ensemble in one.rounds],
        "run": [ensemble.pass_seconds for ensemble in one.rounds],
        "reduce": [ensemble.reduce_seconds for ensemble in one.rounds],
    }
    return {
        "provider": one.engine.provider(),
        "batch": one.batch,
        "prepare_seconds": one.prepare_seconds,
        **speed(totals, passes, gflop, peak),
        "parts_ms_per_pass": {
            name: spread([1e3 * value / passes for value in values]) for name, values in parts.items()
        },
        "mask_share": spread([mask / total for mask, total in zip(parts["masks"], totals, strict=True)]),
        "ratio_to_plain": spread([base / total for base, total in zip(plain_seconds, totals, strict=True)]),
    }


def table(entry: dict[str, Any]) -> str:
    """One size for people; medians, with the 10th and 90th percentile or the least and greatest value."""
    peak = entry["matrix_product_gflops"]
    lines = [
        "",
        f"{entry['size']}x{entry['size']}: {entry['gflop_per_pass']:.1f} GFLOP a pass; "
        f"matrix product {peak['median']:.0f} GFLOP/s ({peak['p10']:.0f} to {peak['p90']:.0f})",
        f"{'':7}{'passes/s':>9} {'(p10-p90)':>13}{'ms/pass':>9}{'masks':>7}{'run':>8}{'reduce':>8}{'masks %':>9}"
        f"{'ratio':>7} {'(min-max)':>12}{'batch':>7}{'prepare s':>11}{'ceiling %':>11}",
    ]
    for name, row in ((PLAIN, entry[PLAIN]), *entry["engines"].items()):
        rate = row["passes_per_second"]
        between = f"({rate['p10']:.2f}-{rate['p90']:.2f})"
        line = f"{name:7}{rate['median']:9.2f} {between:>13}{row['ms_per_pass']['median']:9.1f}"
        if "batch" in row:
            part, ratio = row["parts_ms_per_pass"], row["ratio_to_plain"]
            between = f"({ratio['min']:.2f}-{ratio['max']:.2f})"
            line += f"{part['masks']['median']:7.1f}{part['run']['median']:8.1f}{part['reduce']['median']:8.2f}"
            line += f"{100 * row['mask_share']['median']:9.1f}{ratio['median']:7.2f} {between:>12}"
            line += f"{row['batch']:7}{row['prepare_seconds']:11.2f}"
        else:
            line += " " * (7 + 8 + 8 + 9) + f"{1:7.2f}" + " " * (13 + 7 + 11)
        lines.append(line + f"{100 * row['share_of_matrix_product']:11.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
