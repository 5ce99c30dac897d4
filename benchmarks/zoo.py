"""Export models of other libraries with live dropout, and check that no random draw is lost.

    python -m benchmarks.zoo -o benchmarks/results/zoo.json
    python -m benchmarks.zoo --only timm -o zoo.json

Each model has random weights, so nothing is downloaded. `self2self.export_live` counts the draws that PyTorch makes,
compares the file with PyTorch and neutral masks with evaluation mode, and changes each draw alone. This program also
compares the cut graph with the whole one, and 400 passes of the file with 400 runs of PyTorch's own dropout. A library
that is not installed is left out; `make zoo` installs all of them. Models that are in the output already stay as
they are, so a run that was stopped goes on.
"""

from __future__ import annotations

import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import earlier_rows, provenance, result_parser, write_result
from benchmarks.zoo_models import ZOO, Entry

PASSES = 400
"""Passes that are compared with as many runs of PyTorch."""


def measure(entry: Entry, folder: Path) -> dict[str, Any]:
    """Export one model, and compare its passes with those of PyTorch."""
    import torch

    from self2self.live.export import export_live
    from self2self.live.watch import find_drawing, undisturbed

    torch.manual_seed(0)
    model, inputs = entry.make()
    for parameter in model.parameters():
        # Layers that start at zero would hide the draws before them.
        if not parameter.any() or parameter.abs().max() < 1e-3:
            torch.nn.init.normal_(parameter, std=0.1)
    positional = inputs if isinstance(inputs, tuple) else (inputs,)
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (positional, {})
    start = time.perf_counter()
    done = export_live(model, inputs, folder / "model.onnx", dynamic=entry.dynamic)
    row: dict[str, Any] = {"draws": len(done.contract.masks), "seconds": time.perf_counter() - start}
    with undisturbed(model):
        row["made"] = sum(find_drawing(model, args, kwargs).counts.values())
    row |= {"onnx": done.onnx_difference, "neutral": done.neutral_difference, "separable": done.contract.separable}
    return row | _compared(model, args, kwargs, folder / "model.onnx")


def _compared(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> dict[str, Any]:
    """Difference of the cut graph from the whole one, and of the passes from PyTorch's own dropout."""
    import onnx
    import onnxruntime
    import torch

    from self2self.live.draws import draw_pass
    from self2self.live.model import load_live
    from self2self.live.program import named_tensors
    from self2self.live.watch import find_drawing, undisturbed

    live = load_live(path)
    contract = live.contract
    given = [*args, *kwargs.values()]
    arrays = {item.name: value.numpy() for item, value in zip(contract.inputs, given, strict=True)}
    axes = {axis: arrays[name].shape[index] for axis, (name, index) in contract.axes.items()}
    draws = draw_pass(contract, axes, 1, 0)
    session = onnxruntime.InferenceSession(onnx.load(path).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in contract.outputs]
    wanted = {value.name for value in session.get_inputs()}
    whole = session.run(names, {name: value for name, value in {**arrays, **draws}.items() if name in wanted})
    parts = live.one_pass(arrays, live.once(arrays), draws)
    cut = max(float(np.abs(parts[name] - value).max()) for name, value in zip(names, whole, strict=True))
    other = _openvino_difference(live, arrays)
    outputs = live.predict(arrays, PASSES).outputs
    # The first output that any draw reaches.
    index, found = next((index, one) for index, one in enumerate(outputs.values()) if one.std.any())
    with undisturbed(model):
        find_drawing(model, args, kwargs)
        torch.manual_seed(1)
        runs = [list(named_tensors(model(*args, **kwargs)).values())[index].numpy() for _ in range(PASSES)]
    passes = np.stack(runs).astype(np.float64)
    mean, std = passes.mean(0), passes.std(0, ddof=1)
    spread = np.sqrt((std**2 + found.std.astype(np.float64) ** 2) / PASSES)
    moving = spread > 1e-9
    return {
        "cut": cut,
        "openvino": other,
        "computed_once": live.computed_once,
        "rms_z": float(np.sqrt(np.mean(((found.mean - mean)[moving] / spread[moving]) ** 2))),
        "std_ratio": float(np.mean(found.std[moving]) / np.mean(std[moving])),
    }


def _openvino_difference(live: Any, arrays: dict[str, Any]) -> float | str | None:
    """Largest relative difference of OpenVINO from ONNX Runtime with the same draws: at the size of the example, with
    three samples, and with free axes of twice the length. A text says why OpenVINO does not run; None if it is absent.
    """
    from self2self.errors import EngineUnavailableError, InputError, Self2SelfError
    from self2self.live.draws import axes_of, draw_pass
    from self2self.live.model import load_live
    from self2self.live.probes import difference

    contract = live.contract

    def resized(samples: int, times: int) -> dict[str, Any]:
        values = {}
        for item in contract.inputs:
            value = arrays[item.name]
            for index, dim in enumerate(item.dims):
                count = 1 if isinstance(dim, int) else samples if dim == contract.batch else times
                value = np.concatenate([value] * count, axis=index) if count > 1 else value
            values[item.name] = value
        return values

    differences = []
    try:
        other = load_live(live.path, "openvino")
        for samples, times in ((1, 1), (3, 1), (1, 2)) if len(contract.axes) > 1 else ((1, 1), (3, 1)):
            values = resized(samples, times)
            draws = draw_pass(contract, axes_of(contract.axes, values), 2, samples)
            try:
                wanted = live.one_pass(values, live.once(values), draws)
            except InputError:
                # The model itself does not run on inputs of this size.
                continue
            got = other.one_pass(values, other.once(values), draws)
            differences.append(max(difference(got[name], wanted[name]) for name in wanted))
    except EngineUnavailableError:
        return None
    except Self2SelfError as error:
        return str(error).partition("onnx: ")[2]
    return max(differences)


def page_table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The lines of the table of `docs/live-dropout.md`: one for each library, and one for all."""

    def line(name: str, part: list[dict[str, Any]]) -> list[str]:
        done = [row for row in part if "error" not in row]
        cut = [row for row in done if row["computed_once"]]
        neutral = [row["neutral"] for row in done if row["neutral"] is not None]
        other = [row["openvino"] for row in done if isinstance(row["openvino"], float)]
        return [
            name,
            f"{len(done)} of {len(part)}",
            f"{sum(row['draws'] for row in done)} of {sum(row['made'] for row in done)}",
            f"{max(row['onnx'] for row in done):.1e}",
            f"{max(neutral):.1e}" if neutral else "",
            f"{max(other):.1e} ({len(other)})" if other else "",
            f"{sum(row['cut'] == 0 for row in cut)} of {len(cut)}",
        ]

    libraries = dict.fromkeys(row["library"] for row in rows)
    named = [line(library, [row for row in rows if row["library"] == library]) for library in libraries]
    return [
        ["library", "models", "draws", "ONNX Runtime", "neutral masks", "OpenVINO", "cut graph equal"],
        *named,
        line("all", rows),
    ]


def main() -> None:
    """Export all models whose library is installed, print a row for each, and write the result."""
    from self2self.runtime.engines.registry import is_installed
    from self2self.train.iqa import import_torchvision

    parser = result_parser(__doc__)
    parser.add_argument("--only", default="", help="models whose name contains this text")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if is_installed("torchvision"):
        # Other libraries import it, too, and its operators do not load beside a PyTorch for CPUs.
        import_torchvision()
    rows = earlier_rows(args.output, passes=PASSES)
    done = {(row["library"], row["model"]) for row in rows}
    for name, entry in ZOO.items():
        library, _, model = name.partition(" ")
        if args.only not in name or not is_installed(entry.library) or (library, model) in done:
            continue
        row: dict[str, Any] = {"library": library, "model": model}
        with tempfile.TemporaryDirectory() as folder:
            try:
                row |= measure(entry, Path(folder))
            except Exception as error:
                # One model that fails is a result, too.
                traceback.print_exc()
                row["error"] = f"{type(error).__name__}: {error}"
        print(row, flush=True)
        rows.append(row)
        write_result(args.output, {**provenance("zoo"), "passes": PASSES, "rows": rows})
    whole = [row for row in rows if "error" not in row]
    print(f"{len(whole)} of {len(rows)} models, {sum(row['draws'] for row in whole)} draws")


if __name__ == "__main__":
    main()
