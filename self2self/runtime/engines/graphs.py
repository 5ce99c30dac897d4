"""Runs any ONNX graph in an engine: named arrays in, arrays out.

Networks with live dropout run through this alone. Engines of the denoiser run its graph, or parts of it (`windows`), in
the same way; an `Engine` adds the denoiser's image, its batches and its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import FileFormatError, UsageError

if TYPE_CHECKING:
    import onnx

Values = Mapping[str, NDArray[Any]]
"""Inputs of a graph by name; those that it does not read are ignored."""
Runner = Callable[[Values], list[NDArray[Any]]]
"""Computes the outputs of a graph, in their order; the next call may overwrite them.

It raises a MemoryError where memory runs out, and a ValueError where the graph does not run on inputs of these sizes.
"""
LoadGraph = Callable[["onnx.ModelProto", Path], Runner]
"""Loads a graph; the path is for messages.

Raises an EngineUnavailableError where the engine does not work here, a FileFormatError where it cannot load this graph,
and a MemoryError.
"""

GRAPH_ENGINES: dict[str, str] = {
    "ort": "self2self.runtime.engines.onnxruntime.cpu:load_graph",
    "openvino": "self2self.runtime.engines.openvino.session:load_graph",
    "mnn": "self2self.runtime.engines.mnn.session:load_graph",
    "ort-cuda": "self2self.runtime.engines.onnxruntime.cuda:load_graph",
    "ort-trt": "self2self.runtime.engines.onnxruntime.tensorrt:load_graph",
}
"""Names of the engines that run any graph, to ``module:function``."""

_TOLERANCE = 1e-3
"""Largest difference between two engines, relative to the largest value, that rounding explains."""


def graph_loader(engine: str) -> LoadGraph:
    """The function that loads graphs into the engine called `engine`.

    Raises:
        UsageError: no such engine runs any graph.
    """
    if engine not in GRAPH_ENGINES:
        raise UsageError(f"engine is {engine!r}; networks with live dropout run in {', '.join(GRAPH_ENGINES)}.")
    module, _, function = GRAPH_ENGINES[engine].partition(":")
    load: LoadGraph = getattr(import_module(module), function)
    return load


def checked(runner: Runner, engine: str, proto: onnx.ModelProto, path: Path) -> Runner:
    """`runner`, whose first results are compared with those of ONNX Runtime: not every library refuses what it cannot.

    Args:
        runner: of `proto`.
        engine: name of the engine, for messages.
        proto: the graph.
        path: of its file, for messages.

    Returns:
        a runner that raises a FileFormatError in its first call if the results differ.
    """
    references = [graph_loader("ort")(proto, path)]

    def run(values: Values) -> list[NDArray[Any]]:
        results = runner(values)
        while references:
            for name, got, wanted in zip(proto.graph.output, results, references.pop()(values), strict=True):
                largest = float(np.abs(wanted).max(initial=0))
                same = got.dtype == wanted.dtype and got.shape == wanted.shape
                if not same or not np.allclose(got, wanted, rtol=0, atol=_TOLERANCE * largest):
                    raise FileFormatError(
                        f"{path}: the engine {engine} computes {name.name} wrongly. Use the engine ort."
                    )
        return results

    return run
