"""Build networks with live dropout for TensorRT-RTX, whole and cut, and run them in MNN; no GPU is needed.

    python -m benchmarks.live_engines -o benchmarks/results/live-engines.json

The networks are those of `benchmarks.zoo` whose name contains ``--only``; by default our own. TensorRT-RTX reads each
graph and builds an engine for 1 to 8 samples: of the whole graph, and of its two parts. The first of them runs once,
the second once a pass. MNN computes a pass with the same masks as ONNX Runtime, or refuses the network.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.results_file import provenance, result_parser, write_result
from benchmarks.zoo_models import ZOO, Entry

if TYPE_CHECKING:
    import onnx

SAMPLES = (1, 4, 8)
"""Smallest, optimal and largest number of samples of an engine."""


def measure(entry: Entry, folder: Path) -> dict[str, Any]:
    """Export one network, and build and run it."""
    import torch

    from self2self.live.export import export_live

    torch.manual_seed(0)
    model, inputs = entry.make()
    export_live(model, inputs, folder / "model.onnx", dynamic=entry.dynamic)
    given = (
        list(inputs.values()) if isinstance(inputs, dict) else list(inputs) if isinstance(inputs, tuple) else [inputs]
    )
    arrays = [value.numpy() for value in given]
    return {**built_parts(folder / "model.onnx", arrays), "mnn": _mnn_difference(folder / "model.onnx", arrays)}


def built_parts(path: Path, arrays: list[Any]) -> dict[str, Any]:
    """Layers of the whole graph and of its parts, as TensorRT-RTX built them; a text says why it did not.

    Args:
        path: of a file of `export_live`.
        arrays: example inputs, in their order.
    """
    import onnx

    from self2self.errors import Self2SelfError
    from self2self.live.contract import LiveContract
    from self2self.live.cut import cut_graph
    from self2self.runtime.engines.tensorrt.builder import TENSORRT_RTX, build

    proto = onnx.load(path)
    contract = LiveContract.from_metadata({entry.key: entry.value for entry in proto.metadata_props}, str(path))
    del proto.metadata_props[:]
    cut = cut_graph(proto, [mask.name for mask in contract.masks], ranks=True)
    parts = {"whole": proto} if cut.prefix is None else {"whole": proto, "once": cut.prefix, "each pass": cut.suffix}
    ranges = _shapes(contract, cut.prefix, cut.carried, arrays)
    built: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            shapes = {value.name: ranges[value.name] for value in part.graph.input}
            built[name] = build(TENSORRT_RTX, part.SerializeToString(), shapes, source=name).layer_count
        except Self2SelfError as error:
            built[name] = str(error)
    return built


def _shapes(
    contract: Any, prefix: onnx.ModelProto | None, carried: tuple[str, ...], arrays: list[Any]
) -> dict[str, Any]:
    """Smallest, optimal and largest shape of each input of the graph and of its parts."""
    from self2self.live.draws import axes_of, draw_pass
    from self2self.runtime.engines.onnxruntime.cpu import load_graph

    runner = None if prefix is None else load_graph(prefix, Path("once"))
    found: dict[str, list[tuple[int, ...]]] = {}
    for samples in SAMPLES:
        values = {}
        for item, array in zip(contract.inputs, arrays, strict=True):
            follows = contract.batch is not None and item.dims and item.dims[0] == contract.batch
            values[item.name] = np.concatenate([array[:1]] * samples) if follows else array
        every = {**values, **draw_pass(contract, axes_of(contract.axes, values), 0, 0)}
        if runner is not None:
            every |= dict(zip(carried, runner(values), strict=True))
        for name, value in every.items():
            found.setdefault(name, []).append(value.shape)
    return {name: tuple(shapes) for name, shapes in found.items()}


def _mnn_difference(path: Path, arrays: list[Any]) -> float | str:
    """Largest relative difference of MNN from ONNX Runtime with the same draws; a text says why MNN does not run."""
    from self2self.errors import Self2SelfError
    from self2self.live.draws import axes_of, draw_pass
    from self2self.live.model import load_live
    from self2self.live.probes import difference

    live = load_live(path)
    values = dict(zip([item.name for item in live.contract.inputs], arrays, strict=True))
    draws = draw_pass(live.contract, axes_of(live.contract.axes, values), 2, 0)
    wanted = live.one_pass(values, live.once(values), draws)
    try:
        other = load_live(path, "mnn")
        got = other.one_pass(values, other.once(values), draws)
    except Self2SelfError as error:
        return str(error).partition("onnx: ")[2]
    return max(difference(got[name], wanted[name]) for name in wanted)


def main() -> None:
    """Build all networks, print a row for each, and write the result."""
    parser = result_parser(__doc__)
    parser.add_argument("--only", default="own ", help="networks whose name contains this text")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for name, entry in ZOO.items():
        if args.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"model": name, **measure(entry, Path(folder))})
        print(rows[-1], flush=True)
        write_result(args.output, {**provenance("live_engines"), "samples": SAMPLES, "rows": rows})
    done = [row for row in rows if not any(isinstance(row.get(part), str) for part in ("whole", "once", "each pass"))]
    print(f"TensorRT-RTX builds {len(done)} of {len(rows)}, {sum('once' in row for row in done)} of them cut, too")


if __name__ == "__main__":
    main()
