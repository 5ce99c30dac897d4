"""Loads a network with live dropout from its file, and runs many passes over arrays; needs no PyTorch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from self2self.errors import (
    EngineUnavailableError,
    FileFormatError,
    InputError,
    ResourceError,
    UsageError,
    first_line,
    shown,
    typed,
)
from self2self.live.contract import LiveContract, LiveInput
from self2self.live.cut import cut_graph
from self2self.live.draws import AnyArray, axes_of, draw_pass
from self2self.live.statistics import FloatArray, OutputStatistics, RunningStatistics
from self2self.machine.arguments import items, real_number, whole_number, wrong
from self2self.model.masks import check_seed
from self2self.runtime.engines.graphs import Runner, Values, graph_loader
from self2self.runtime.model import read_proto

if TYPE_CHECKING:
    import onnx

STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""
LARGEST_FILE_BYTES = 2**31
"""Largest file that is read: ONNX files without further files have less than 2 GiB."""
_PASSES = 'a number from 2 up, or "auto"'
FEWEST_PASSES, MOST_PASSES = 30, 1000
"""Passes that ``passes="auto"`` makes at least and at most."""
TOLERANCE = 0.005
"""Standard error at which ``passes="auto"`` stops: of probabilities, or relative to the mean of other values."""


@dataclass(frozen=True, slots=True)
class LivePrediction:
    """What the passes over some inputs tell.

    Attributes:
        passes: number of passes; with ``passes="auto"`` and several batches, the largest.
        outputs: the statistics of each output of the network, by its name.
    """

    passes: int
    outputs: dict[str, OutputStatistics]

    @property
    def first(self) -> OutputStatistics:
        """The statistics of the first output."""
        return next(iter(self.outputs.values()))

    @property
    def mean(self) -> FloatArray:
        """Mean of the first output; of probabilities if it has logits."""
        return self.first.mean

    @property
    def std(self) -> FloatArray:
        """Standard deviation of the first output."""
        return self.first.std

    @property
    def entropy(self) -> FloatArray:
        """Predictive entropy of the first output in nats."""
        return self._of_classes(self.first.entropy)

    @property
    def mutual_information(self) -> FloatArray:
        """Mutual information of the first output and the weights in nats (BALD)."""
        return self._of_classes(self.first.mutual_information)

    @property
    def variation_ratio(self) -> FloatArray:
        """Share of the passes that disagree with the most frequent class of the first output."""
        return self._of_classes(self.first.variation_ratio)

    @property
    def quantiles(self) -> FloatArray:
        """Quantiles of the first output, [quantile, ...]."""
        if self.first.quantiles is None:
            raise UsageError("no quantiles were asked for. Type: predict(inputs, quantiles=(0.05, 0.95))")
        return self.first.quantiles

    def _of_classes(self, values: FloatArray | None) -> FloatArray:
        if values is None:
            name = next(iter(self.outputs))
            raise UsageError(
                f'output {name} was exported with kind "value" or "image", which has no classes. Export the network '
                'with kind="logits" or kind="probabilities".'
            )
        return values


class LiveModel:
    """A network with live dropout that is ready to run; `load_live` makes it.

    Attributes:
        path: of its file.
        contract: what the file says of its inputs, outputs and draws.
        engine: name of the engine that computes.
        computed_once: whether a part of the graph does not depend on any draw, and runs once for all passes.
    """

    def __init__(self, path: Path, contract: LiveContract, proto: onnx.ModelProto, engine: str = "ort") -> None:
        self.path = path
        self.contract = contract
        self.engine = engine
        cut = cut_graph(proto, [mask.name for mask in contract.masks], ranks=engine != "ort")
        self.computed_once = cut.prefix is not None
        self._carried = cut.carried
        self._late = [output.name for output in contract.outputs if output.name not in cut.carried]
        load = graph_loader(engine)
        try:
            self._prefix = load(cut.prefix, path) if cut.prefix is not None else None
            self._suffix = load(cut.suffix, path)
        except EngineUnavailableError as error:
            # What it names instead may be an engine of the denoiser alone.
            other = f"Or use {typed('--engine', 'openvino' if engine == 'ort' else 'ort')}."
            raise EngineUnavailableError.of(
                engine, error.cause, error.reason or first_line(error).rstrip("."), error.fix, other
            ) from error
        except MemoryError as error:
            raise ResourceError(f"{path}: memory ran out while it was loaded. Close other programs.") from error

    def predict(
        self,
        inputs: AnyArray | Mapping[str, AnyArray],
        passes: int | Literal["auto"] = "auto",
        seed: int = 0,
        *,
        masks: Literal["independent", "shared"] = "independent",
        quantiles: Sequence[float] = (),
        batch: int | None = None,
        tolerance: float | None = None,
    ) -> LivePrediction:
        """Run the network many times with random masks.

        Pass t of a seed has the same masks in every call, and the passes are independent.

        Args:
            inputs: an array, or one for each name of an input, of the types and sizes that the network was exported
                for.
            passes: number of passes, at least 2; ``"auto"`` makes 30 to 1000, and stops when the standard error of the
                mean reaches `tolerance`.
            seed: of all draws, from 0 to 2**32 - 1.
            masks: ``"independent"``: each sample of the inputs has masks of its own; ``"shared"``: in each pass all
                samples have the same masks, so that passes are functions (BatchBALD needs that).
            quantiles: which quantiles to compute, each from 0 to 1. They are exact, so all passes over a batch are
                kept in memory.
            batch: number of samples that run together; None for all. It changes speed and memory, and rounding.
            tolerance: RMS standard error of an output's mean at which ``"auto"`` stops; relative to the RMS
                of the mean for outputs of kind "value"; in units of probability, or of the distance of black from
                white, for other kinds. 0.005 by default.

        Raises:
            InputError: the inputs have other names, types or sizes, or values that are not finite and reach the
                outputs.
            UsageError: another argument is wrong, or does not suit the network.
            ResourceError: memory ran out.
        """
        if isinstance(passes, str):
            if passes != "auto":
                raise wrong("passes", passes, _PASSES)
        else:
            passes = whole_number("passes", passes, _PASSES, 2)
        if tolerance is not None and passes != "auto":
            raise UsageError(
                f"{typed('--tolerance')} decides the number of passes; leave out {typed('--passes', passes)}."
            )
        seed = whole_number("seed", seed, f"a number from 0 to {2**32 - 1}", 0)
        check_seed(seed)
        if batch is not None:
            batch = whole_number("batch", batch, "a number from 1 up", 1)
        wanted = items("quantiles", quantiles, "numbers from 0 to 1, such as (0.05, 0.95)")
        quantiles = tuple(real_number("quantiles", value, "numbers from 0 to 1") for value in wanted)
        error = TOLERANCE if tolerance is None else real_number("tolerance", tolerance, "a number above 0")
        self._check_arguments(masks, quantiles, batch, error)
        arrays = self.checked(inputs)
        samples = axes_of(self.contract.axes, arrays).get(self.contract.batch or "", 1)
        step = samples if batch is None or self.contract.batch is None else batch
        parts, most = [], 0
        for first in range(0, samples, step):
            part = {name: self._rows(name, array, first, step) for name, array in arrays.items()}
            running = self._run_passes(part, passes, seed, masks, quantiles, first, error)
            most = max(most, *(statistics.count for statistics in running.values()))
            parts.append({name: statistics.result() for name, statistics in running.items()})
        names = [output.name for output in self.contract.outputs]
        return LivePrediction(most, {name: OutputStatistics.joined([part[name] for part in parts]) for name in names})

    def _run_passes(
        self,
        arrays: dict[str, AnyArray],
        passes: int | Literal["auto"],
        seed: int,
        masks: str,
        quantiles: tuple[float, ...],
        first_sample: int,
        tolerance: float,
    ) -> dict[str, RunningStatistics]:
        """Statistics of all passes over one batch."""
        axes = axes_of(self.contract.axes, arrays)
        carried = self.once(arrays)
        running = {o.name: RunningStatistics(o.name, o.kind, quantiles) for o in self.contract.outputs}
        most = MOST_PASSES if passes == "auto" else passes
        for index in range(most):
            try:
                draws = draw_pass(self.contract, axes, seed, index, first_sample=first_sample, shared=masks == "shared")
            except ValueError as error:
                raise InputError(f"{self.path}: has no masks for inputs of these sizes ({error}).") from error
            for name, values in self.one_pass(arrays, carried, draws).items():
                running[name].add(values)
            if index == 0 and not all(statistics.is_finite for statistics in running.values()):
                self._refuse_not_finite(arrays)
            may_stop = passes == "auto" and index + 1 >= FEWEST_PASSES
            if may_stop and all(statistics.standard_error() <= tolerance for statistics in running.values()):
                break
        return running

    def _refuse_not_finite(self, arrays: Mapping[str, AnyArray]) -> None:
        """Say which inputs are not finite, where outputs are not: a network may well read NaN as a missing value."""
        for name, array in arrays.items():
            count = array.size - int(np.isfinite(array).sum())
            if count:
                raise InputError(
                    f"{self.path}: input {name} has {count} values that are not finite, and they reach the outputs. "
                    "Replace them."
                )

    def once(self, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Compute what does not depend on any draw, for `one_pass`; arguments and errors are those of `one_pass`."""
        if self._prefix is None:
            return {}
        # Another engine than ONNX Runtime may overwrite its results in the next call.
        computed = [np.array(values) for values in self._run(self._prefix, inputs)]
        return dict(zip(self._carried, computed, strict=True))

    def one_pass(
        self, inputs: Mapping[str, AnyArray], carried: Mapping[str, AnyArray], draws: Mapping[str, AnyArray]
    ) -> dict[str, AnyArray]:
        """Run one pass with masks and noise that are given.

        Args:
            inputs: an array for each input that is data.
            carried: from `once` of the same inputs.
            draws: an array for each of the contract's masks.

        Returns:
            the outputs by their names; the next pass may overwrite them.

        Raises:
            InputError: the network cannot run on arrays of these sizes.
            ResourceError: memory ran out.
        """
        computed = dict(zip(self._late, self._run(self._suffix, {**inputs, **carried, **draws}), strict=True))
        return {o.name: carried[o.name] if o.name in carried else computed[o.name] for o in self.contract.outputs}

    def _run(self, runner: Runner, values: Values) -> list[AnyArray]:
        try:
            return runner(values)
        except MemoryError as error:
            raise ResourceError(f"{self.path}: memory ran out during a pass. Give fewer inputs at a time.") from error
        except ValueError as error:
            raise InputError(
                f"{self.path}: the network does not run on these inputs; a size, or a value such as an index, may be "
                f"out of range ({error})."
            ) from error

    def _rows(self, name: str, array: AnyArray, first: int, count: int) -> AnyArray:
        dims = next(item.dims for item in self.contract.inputs if item.name == name)
        return array[first : first + count] if dims and dims[0] == self.contract.batch else array

    def checked(self, inputs: AnyArray | Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """The inputs of `predict` by name; raises an InputError if they are not what the contract says."""
        wanted = {item.name: item for item in self.contract.inputs}
        if not isinstance(inputs, Mapping):
            if len(wanted) > 1:
                raise InputError(f"{self.path}: got one array; expected one for each of {', '.join(wanted)}.")
            inputs = {next(iter(wanted)): inputs}
        if set(inputs) != set(wanted):
            got = shown(", ".join(sorted(inputs))) or "none"
            raise InputError(f"{self.path}: got inputs {got}; expected {', '.join(wanted)}.")
        arrays = {
            name: np.ascontiguousarray(inputs[name]) if np.ndim(inputs[name]) else np.asarray(inputs[name])
            for name in wanted
        }
        for item in wanted.values():
            self._check_array(item, arrays[item.name])
        axes = axes_of(self.contract.axes, arrays)
        for item in wanted.values():
            for index, dim in enumerate(item.dims):
                size = arrays[item.name].shape[index]
                if isinstance(dim, str) and size != axes[dim]:
                    other = self.contract.axes[dim]
                    raise InputError(
                        f"{self.path}: axis {index} of {item.name} has {size} elements, and axis {other[1]} of "
                        f"{other[0]} has {axes[dim]}; expected the same number."
                    )
        return arrays

    def _check_array(self, item: LiveInput, array: AnyArray) -> None:
        if array.dtype.name != item.dtype:
            raise InputError(
                f"{self.path}: input {item.name} is {array.dtype.name}; expected {item.dtype}. Convert it with "
                f'.astype("{item.dtype}").'
            )
        sizes = ", ".join(str(dim) for dim in item.dims)
        fits = array.ndim == len(item.dims) and all(
            size == dim if isinstance(dim, int) else size > 0 for size, dim in zip(array.shape, item.dims, strict=True)
        )
        if not fits:
            raise InputError(f"{self.path}: input {item.name} has shape {list(array.shape)}; expected [{sizes}].")

    def _check_arguments(self, masks: str, quantiles: Sequence[float], batch: int | None, tolerance: float) -> None:
        if masks not in ("independent", "shared"):
            raise UsageError(f"masks is {masks!r}; expected independent or shared.")
        if not all(0 <= quantile <= 1 for quantile in quantiles):
            raise UsageError(f"quantiles are {', '.join(map(str, quantiles))}; expected numbers from 0 to 1.")
        if not (tolerance > 0 and math.isfinite(tolerance)):
            raise UsageError(f"tolerance is {tolerance}; expected a number above 0.")
        if not self.contract.separable and (masks == "shared" or batch is not None):
            raise UsageError(
                f"{self.path}: the samples of a batch do not have masks of their own, so masks cannot be shared "
                "and batches cannot be divided. Leave out masks and batch."
            )


def load_live(path: str | os.PathLike[str], engine: str = "ort") -> LiveModel:
    """Load a network that `export_live` wrote.

    The file is a graph of ONNX operators, which the engine computes. It runs no other code, but may take any time and
    memory, so load files of people you trust.

    Args:
        path: of the file.
        engine: what computes it: ``"ort"`` or ``"auto"`` (ONNX Runtime on the CPU), ``"openvino"``, ``"mnn"``,
            ``"ort-cuda"`` or ``"ort-trt"``.

    Raises:
        UsageError: there is no such engine.
        InputError: the file is missing or cannot be read.
        FileFormatError: it is not ONNX, damaged, of another schema, or refers to other files.
        EngineUnavailableError: the engine is not installed, or does not work on this machine.
        ResourceError: memory ran out.
    """
    path = Path(path)
    again = "Export it again: self2self export --model MODULE:FACTORY"
    proto = read_proto(path, LARGEST_FILE_BYTES, again, again.partition(": ")[2])
    contract = LiveContract.from_metadata({entry.key: entry.value for entry in proto.metadata_props}, str(path))
    if problem := _difference(proto, contract):
        raise FileFormatError(f"{path}: its graph is not what its metadata promise ({shown(problem)}). {again}")
    return LiveModel(path, contract, proto, "ort" if engine == "auto" else engine)


def _difference(proto: onnx.ModelProto, contract: LiveContract) -> str:
    """What of `proto` the contract does not describe; empty if nothing."""
    import onnx

    graph = proto.graph
    expected = {item.name: np.dtype(item.dtype) for item in contract.inputs}
    expected |= {mask.name: np.dtype("bool" if mask.draw == "mask" else "float32") for mask in contract.masks}
    found = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in graph.input
    }
    if found != expected:
        return f"inputs {', '.join(found)}"
    if [value.name for value in graph.output] != [output.name for output in contract.outputs]:
        return f"outputs {', '.join(value.name for value in graph.output)}"
    return foreign_parts(proto)


def foreign_parts(proto: onnx.ModelProto, *, functions: bool = False) -> str:
    """What of `proto` is in other files or not of ONNX alone; empty if nothing.

    Args:
        proto: the model.
        functions: whether it may have functions of its own.
    """
    if proto.functions and not functions:
        return "functions"
    own = {function.domain for function in proto.functions}
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in all_nodes(nodes):
            if node.domain not in STANDARD and node.domain not in own:
                return f"operators of other domains ({node.domain})"
    if any(tensor.external_data or tensor.data_location for tensor in _tensors(proto)):
        return "weights in other files"
    return ""


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """All nodes, also those of branches and loops."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches of an If, and the body of a Loop or Scan."""
    for attribute in node.attribute:
        yield from (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors: weights, constants, and those of branches and loops."""
    nodes = [node for part in (proto.graph, *proto.functions) for node in all_nodes(part.node)]
    for graph in (proto.graph, *(graph for node in nodes for graph in subgraphs(node))):
        yield from graph.initializer
        yield from (tensor for sparse in graph.sparse_initializer for tensor in (sparse.values, sparse.indices))
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            sparse = [attribute.sparse_tensor, *attribute.sparse_tensors]
            yield from (tensor for one in sparse for tensor in (one.values, one.indices))
