"""Measure the worth of each saving in the graph: variants of the graph without one saving, or with one more.

    python -m benchmarks.graph_savings -o benchmarks/results/graph-savings.json
    python -m benchmarks.graph_savings --side 64 --recipe fast --rounds 2 -o RESULT.json

The network of `--recipe` is exported once with random weights, and each variant changes the exported graph. In each
round, every variant runs on every engine, one pass at a time with the same masks; the order rotates. A ratio is the
time of the variant divided by the time of the exported graph, for the same engine and round: above 1, the exported
graph is faster. `difference` is the largest difference between the predictions of the two graphs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.results_file import provenance, result_parser, write_result
from self2self.bench.benchmark_model import random_model
from self2self.bench.cases import rotated
from self2self.bench.measure import idle, spread
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.mnn import graph as mnn_graph
from self2self.runtime.engines.registry import engine_class
from self2self.runtime.model import Model
from self2self.train.recipes import recipe_for


def gates_apart(graph: onnx.GraphProto) -> None:
    """Use separate convolutions for feature and gate, as in the official code."""
    constants, producers = _constants(graph), _producers(graph)
    for split in [node for node in graph.node if node.op_type == "Split"]:
        conv = producers[split.input[0]]
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
    """Multiply 1/(1-p) into the weights of the convolution behind the mask, instead of into the mask."""
    constants, producers = _constants(graph), _producers(graph)
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        product = producers.get(producers[conv.input[0]].input[0])
        if product is None or product.op_type != "Mul":
            continue
        for place, name in enumerate(product.input):
            scaled = producers.get(name)
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
    """Let the convolutions pad with zeros; the result differs at the borders, and the time bounds the cost of pads."""
    producers = _producers(graph)
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        pad = producers[conv.input[0]]
        conv.input[0] = pad.input[0]
        for attribute in [a for a in conv.attribute if a.name in ("pads", "auto_pad")]:
            conv.attribute.remove(attribute)
        conv.attribute.append(onnx.helper.make_attribute("pads", [1, 1, 1, 1]))
        graph.node.remove(pad)


def unchanged(graph: onnx.GraphProto) -> None:
    """Leave the graph as exported."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to write the same network.

    Attributes:
        change: function that changes the exported graph in place.
        engines: engines that run the variant.
        switched_off: name of the function of `mnn.graph` whose saving the variant leaves out; None for none.
        kept: true if the variant leaves out a saving that the product uses; false if the variant tries another one.
    """

    change: Callable[[onnx.GraphProto], None]
    engines: tuple[str, ...]
    switched_off: str | None = None
    kept: bool = True


Case = tuple[str, str]
"""Name of an engine, and name of a variant."""

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


def _producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def write_variant(exported: Path, change: Callable[[onnx.GraphProto], None], path: Path) -> None:
    """Apply `change` to the graph of `exported`, check the result, and write it to `path`."""
    model = onnx.load(str(exported))
    change(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def prepared(stack: ExitStack, model: Model, engine: str, variant: Variant, image: Any) -> Engine:
    """Load `model`, the file of a variant, into `engine`, which stays open until `stack` closes."""
    with ExitStack() as switched:
        if variant.switched_off is not None:
            switched.enter_context(patch.object(mnn_graph, variant.switched_off, lambda graph: None))
        return stack.enter_context(engine_class(engine)(model, image))


def measure(
    recipe: str, side: int, rounds: int, passes: int
) -> tuple[dict[Case, list[float]], dict[Case, NDArray[np.float32]]]:
    """Run all rounds; return the seconds per pass in each round, and the predictions, of each case."""
    image = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    cases = [(engine, name) for name, variant in VARIANTS.items() for engine in variant.engines]
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        folder = Path(text)
        exported = random_model(recipe_for(recipe), folder).model
        masks = MaskMaker(exported.contract.masks, {"H": side, "W": side}, 0).make(0, 1)
        engines, predictions = {}, {}
        for engine, name in cases:
            path = folder / f"{name}.onnx"
            write_variant(exported.path, VARIANTS[name].change, path)
            # `load_model` refuses a graph that the exporter would not write.
            model = replace(exported, path=path)
            engines[engine, name] = prepared(stack, model, engine, VARIANTS[name], image)
            predictions[engine, name] = engines[engine, name].run(masks).copy()
        for number in range(rounds):
            for case in rotated(cases, number):
                idle()
                engines[case].run(masks)
                start = time.perf_counter()
                for _ in range(passes):
                    engines[case].run(masks)
                seconds[case].append((time.perf_counter() - start) / passes)
    return seconds, predictions


def result_row(
    case: Case, seconds: dict[Case, list[float]], predictions: dict[Case, NDArray[np.float32]]
) -> dict[str, Any]:
    """Compare one case with the exported graph on the same engine."""
    engine, name = case
    exported = (engine, EXPORTED)
    return {
        "engine": engine,
        "variant": name,
        "saving_is_kept": VARIANTS[name].kept,
        "seconds_per_pass": spread(seconds[case]),
        "ratio_to_exported": spread([a / b for a, b in zip(seconds[case], seconds[exported], strict=True)]),
        "difference": float(np.abs(predictions[case] - predictions[exported]).max()),
    }


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--passes", type=int, default=2, help="passes of each case in a round")
    parser.add_argument("--recipe", default="paper")
    args = parser.parse_args()
    seconds, predictions = measure(args.recipe, args.side, args.rounds, args.passes)
    rows = []
    for case in seconds:
        row = result_row(case, seconds, predictions)
        rows.append(row)
        ratio = row["ratio_to_exported"]
        print(
            f"{row['engine']:5} {row['variant']:36} {1e3 * row['seconds_per_pass']['median']:8.1f} ms  "
            f"{ratio['median']:.3f} ({ratio['p10']:.3f} to {ratio['p90']:.3f})  difference {row['difference']:.1e}",
            flush=True,
        )
    result = {
        **provenance("graph_savings"),
        "side": args.side,
        "recipe": args.recipe,
        "rounds": args.rounds,
        "rows": rows,
    }
    write_result(args.output, result)


if __name__ == "__main__":
    main()
