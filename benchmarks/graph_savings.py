"""What each saving in the graph is worth: the same network with one saving switched off, or one more, at a time.

    python -m benchmarks.graph_savings -o benchmarks/results/graph-savings.json
    python -m benchmarks.graph_savings --side 64 --recipe fast --rounds 2 -o RESULT.json

The network of `--recipe` with random weights is exported once and then changed. All variants and engines
take turns, in an order that rotates, one pass at a time with the same masks; a ratio is that of the
variant's time to that of the graph as exported, by the same engine in the same round: above 1, the
exported graph is faster. `difference` is the largest one between the predictions of the two.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.results_file import write_result
from self2self.bench.benchmark_model import random_model
from self2self.bench.cases import rotated
from self2self.bench.environment import environment, shown_command
from self2self.bench.measure import idle, spread
from self2self.model.graph import note_weights
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.mnn import graph as mnn_graph
from self2self.runtime.engines.registry import engine_class
from self2self.runtime.model import load_model
from self2self.train.recipes import recipe_for


def gates_apart(graph: onnx.GraphProto) -> None:
    """Two convolutions for feature and gate, as the official code has them."""
    constants, maker = _constants(graph), _makers(graph)
    for split in [node for node in graph.node if node.op_type == "Split"]:
        conv = maker[split.input[0]]
        parts = [np.split(numpy_helper.to_array(constants[name]), len(split.output)) for name in conv.input[1:]]
        at = list(graph.node).index(split)
        graph.node.remove(split)
        for index, output in enumerate(split.output):
            names = [f"{name} {index}" for name in conv.input[1:]]
            graph.initializer.extend(
                numpy_helper.from_array(values[index].copy(), name) for name, values in zip(names, parts, strict=True)
            )
            single = onnx.NodeProto()
            single.CopyFrom(conv)
            single.name, single.input[1:], single.output[:] = f"{conv.name} {index}", names, [output]
            graph.node.insert(at + index, single)
        graph.node.remove(conv)


def scale_in_weights(graph: onnx.GraphProto) -> None:
    """1/(1-p) multiplied into the convolution that reads the masked activations, instead of into the mask."""
    constants, maker = _constants(graph), _makers(graph)
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        product = maker.get(maker[conv.input[0]].input[0])
        if product is None or product.op_type != "Mul":
            continue
        for place, name in enumerate(product.input):
            scaled = maker.get(name)
            if scaled is None or scaled.op_type != "Mul" or not any(i in constants for i in scaled.input):
                continue
            (factor,) = (i for i in scaled.input if i in constants)
            (mask,) = (i for i in scaled.input if i not in constants)
            weight = constants[conv.input[1]]
            values = numpy_helper.to_array(weight) * numpy_helper.to_array(constants[factor])
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float32), weight.name))
            product.input[place] = mask
            graph.node.remove(scaled)


def zero_padding(graph: onnx.GraphProto) -> None:
    """Convolutions that pad by zeros themselves: another function at the borders, and a bound of what pads cost."""
    maker = _makers(graph)
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        pad = maker[conv.input[0]]
        conv.input[0] = pad.input[0]
        for attribute in [a for a in conv.attribute if a.name in ("pads", "auto_pad")]:
            conv.attribute.remove(attribute)
        conv.attribute.append(onnx.helper.make_attribute("pads", [1, 1, 1, 1]))
        graph.node.remove(pad)


def unchanged(graph: onnx.GraphProto) -> None:
    """As exported."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to write the same network.

    Attributes:
        change: to the exported graph.
        engines: that it is tried on.
        switched_off: a function of `mnn_graph` that makes one saving.
        kept: whether the product does what the variant leaves out; False for what it could do besides.
    """

    change: Callable[[onnx.GraphProto], None]
    engines: tuple[str, ...]
    switched_off: str | None = None
    kept: bool = True


BOTH = ("ort", "mnn")
EXPORTED = "as exported"
VARIANTS = {
    EXPORTED: Variant(unchanged, BOTH),
    "gate and feature apart": Variant(gates_apart, BOTH),
    "mask scale as an operation": Variant(unchanged, ("mnn",), "fold_scales"),
    "mask scale in the weights": Variant(scale_in_weights, ("ort",), kept=False),
    "zeros instead of reflected pads": Variant(zero_padding, BOTH, kept=False),
}


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    return {entry.name: entry for entry in graph.initializer}


def _makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def write_variant(exported: Path, change: Callable[[onnx.GraphProto], None], path: Path) -> None:
    """The graph of `exported` with `change`, checked, as the file `path`."""
    model = onnx.load(str(exported))
    change(model.graph)
    note_weights(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def prepared(stack: ExitStack, path: Path, engine: str, variant: Variant, image: Any) -> Engine:
    """`engine` with the file of a variant."""
    with ExitStack() as switched:
        if variant.switched_off is not None:
            switched.enter_context(patch.object(mnn_graph, variant.switched_off, lambda graph: None))
        return stack.enter_context(engine_class(engine)(load_model(path), image))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--passes", type=int, default=2, help="of a variant in a round")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    image = np.random.default_rng(0).random((1, 3, args.side, args.side), dtype=np.float32)
    cases = [(engine, name) for name, variant in VARIANTS.items() for engine in variant.engines]
    seconds: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        folder = Path(text)
        exported = random_model(recipe_for(args.recipe), folder).model
        masks = MaskMaker(exported.contract.masks, {"H": args.side, "W": args.side}, 0).make(0, 1)
        engines, predictions = {}, {}
        for engine, name in cases:
            path = folder / f"{name}.onnx"
            write_variant(exported.path, VARIANTS[name].change, path)
            engines[engine, name] = prepared(stack, path, engine, VARIANTS[name], image)
            predictions[engine, name] = engines[engine, name].run(masks).copy()
        for number in range(args.rounds):
            for case in rotated(cases, number):
                idle()
                engines[case].run(masks)
                start = time.perf_counter()
                for _ in range(args.passes):
                    engines[case].run(masks)
                seconds[case].append((time.perf_counter() - start) / args.passes)
    rows = []
    for engine, name in cases:
        base = seconds[engine, EXPORTED]
        difference = float(np.abs(predictions[engine, name] - predictions[engine, EXPORTED]).max())
        rows.append(
            {
                "engine": engine,
                "variant": name,
                "saving_is_kept": VARIANTS[name].kept,
                "seconds_per_pass": spread(seconds[engine, name]),
                "ratio_to_exported": spread([a / b for a, b in zip(seconds[engine, name], base, strict=True)]),
                "difference": difference,
            }
        )
        ratio = rows[-1]["ratio_to_exported"]
        print(
            f"{engine:5} {name:36} {1e3 * rows[-1]['seconds_per_pass']['median']:8.1f} ms  {ratio['median']:.3f} "
            f"({ratio['p10']:.3f} to {ratio['p90']:.3f})  difference {difference:.1e}",
            flush=True,
        )
    result = {
        "command": shown_command("python -m benchmarks.graph_savings"),
        **environment(),
        "side": args.side,
        "recipe": args.recipe,
        "rounds": args.rounds,
        "rows": rows,
    }
    write_result(args.output, result)


if __name__ == "__main__":
    main()
