"""Finds the inputs of a graph, and measures how the shapes of its draws follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from self2self.errors import FileFormatError, UsageError, first_line, shown, typed
from self2self.live.contract import DTYPES, LiveInput
from self2self.live.draws import AnyArray
from self2self.live.foreign.graph import (
    attribute,
    drop_unread,
    identifier,
    integers,
    replace_all,
    types_of,
    without_dropout,
)
from self2self.live.foreign.sites import Site
from self2self.live.model import all_nodes
from self2self.live.sizes import Size, evaluate
from self2self.runtime.engines.onnxruntime.cpu import load_graph

if TYPE_CHECKING:
    import onnx

    from self2self.runtime.engines.graphs import Runner

_LENGTHS = (64, 32, 16, 224, 128, 8, 256, 4)
"""Lengths that are tried for free axes of which no example is given."""
_STEPS = (1, 2, 3, 5, 7, 8, 16, 32, 64)
"""What is added to the length of an axis to find how sizes follow from it."""
_FEWEST, _MOST = 3, 8
"""Lengths of an axis beside that of the example; with fewer it is fixed, and no more are tried."""


@dataclass
class Shapes:
    """What was measured.

    Attributes:
        examples: inputs on which the graph runs.
        lengths: of the free axes, for each measurement.
        draws: the shapes of each draw, for each measurement.
        outputs: the shapes of each output.
    """

    examples: dict[str, AnyArray]
    lengths: list[dict[str, int]] = field(default_factory=list)
    draws: list[list[tuple[int, ...]]] = field(default_factory=list)
    outputs: list[list[tuple[int, ...]]] = field(default_factory=list)


def inputs_of(
    graph: onnx.GraphProto, path: Path, shapes: Mapping[str, Sequence[int]]
) -> tuple[list[LiveInput], dict[str, tuple[str, int]]]:
    """The inputs that are data, and the free axes; two axes of one name in the file are one axis."""
    from onnx import helper

    # A switch of the dropout alone, which nothing reads any more, is no input.
    read = {name for node in all_nodes(graph.node) for name in _data_inputs(node)}
    kept = [value for value in graph.input if value.name in read]
    if unknown := set(shapes) - {value.name for value in kept}:
        raise UsageError(
            f"{path}: {typed('--shape')} names {shown(', '.join(sorted(unknown)))}; the inputs are "
            f"{shown(', '.join(value.name for value in kept))}."
        )
    names: dict[str, str] = {}
    axes: dict[str, tuple[str, int]] = {}
    inputs = []
    for value in kept:
        kind = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name if kind.elem_type else "unknown"
        if not value.type.HasField("tensor_type") or dtype not in DTYPES:
            raise FileFormatError(f"{path}: input {value.name} is no tensor of {', '.join(DTYPES)}.")
        given = shapes.get(value.name)
        dims = list(kind.shape.dim) if kind.HasField("shape") else None
        if dims is None and given is None:
            raise UsageError(
                f"{path}: input {value.name} has no shape in the file. Give an example: "
                f"{typed('--shape', value.name + '=1,3,64,64')}"
            )
        count = len(given) if dims is None and given is not None else len(dims or ())
        if given is not None and len(given) != count:
            raise UsageError(
                f"{path}: {typed('--shape')} of {value.name} has {len(given)} axes; the file says {count}."
            )
        found: list[Size] = []
        for index in range(count):
            dim = dims[index] if dims is not None else None
            if dim is not None and dim.HasField("dim_value") and dim.dim_value > 0:
                if given is not None and given[index] != dim.dim_value:
                    raise UsageError(
                        f"{path}: axis {index} of {value.name} has {dim.dim_value} elements in the file, and "
                        f"{given[index]} in {typed('--shape')}."
                    )
                found.append(dim.dim_value)
                continue
            own = f"{identifier(value.name)}_{index}"
            label = dim.dim_param if dim is not None and dim.dim_param else own
            if label not in names:
                name = label if label.isidentifier() and label not in ("max", "min") else own
                names[label] = name if name not in axes else own
                axes[names[label]] = (value.name, index)
            found.append(names[label])
        inputs.append(LiveInput(value.name, dtype, tuple(found)))
    if not inputs:
        raise FileFormatError(f"{path}: its graph has no inputs.")
    return inputs, axes


def _data_inputs(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads as data, without the switch of a Dropout."""
    return list(node.input[:2]) if node.op_type == "Dropout" else list(node.input)


def _examples(inputs: Sequence[LiveInput], lengths: Mapping[str, int]) -> dict[str, AnyArray]:
    """Inputs of these lengths: normal random numbers, and of whole numbers zeros and ones."""
    random = np.random.default_rng(0)
    made: dict[str, AnyArray] = {}
    for item in inputs:
        shape = tuple(evaluate(dim, lengths) for dim in item.dims)
        kind = np.dtype(item.dtype)
        if kind.kind == "f":
            made[item.name] = np.asarray(random.normal(size=shape)).astype(kind)
        else:
            made[item.name] = (
                np.asarray(random.integers(0, 2, shape)).astype(kind) if kind.kind != "b" else np.ones(shape, kind)
            )
    return made


def measure(
    proto: onnx.ModelProto,
    path: Path,
    sites: Sequence[Site],
    inputs: Sequence[LiveInput],
    axes: Mapping[str, tuple[str, int]],
    shapes: Mapping[str, Sequence[int]],
    *,
    fixed: bool,
) -> Shapes:
    """Run the graph at some lengths of its free axes, and note the shapes of draws and outputs.

    Raises:
        UsageError: the graph does not run; the message says which example to give.
        FileFormatError: ONNX Runtime cannot load it.
    """
    run = _neutral_runner(proto, path, sites)
    base = {axis: shapes[name][index] for axis, (name, index) in axes.items() if name in shapes}
    batch = batch_axis(inputs, axes)
    if batch is not None:
        base[batch] = max(base.get(batch, 2), 2)
    open_axes = [axis for axis in axes if axis not in base]
    problem = ""

    def shapes_at(lengths: Mapping[str, int]) -> list[tuple[int, ...]] | None:
        nonlocal problem
        try:
            found = run(_examples(inputs, lengths))
        except (ValueError, MemoryError) as error:
            problem = problem or shown(first_line(error))
            return None
        return [tuple(int(size) for size in values) for values in found]

    for length in _LENGTHS if open_axes else (0,):
        base |= dict.fromkeys(open_axes, length)
        first = shapes_at(base)
        if first is not None and all(0 not in shape for shape in first):
            break
    else:
        wanted = " ".join(
            typed("--shape", f"{item.name}={','.join(str(base.get(str(dim), dim)) for dim in item.dims)}")
            for item in inputs
        )
        tried = f"lengths {', '.join(map(str, _LENGTHS))} of {', '.join(open_axes)}" if open_axes else "the example"
        raise UsageError(
            f"{path}: does not run with {tried} ({problem or 'an axis is empty'}). Give an example that it takes, such "
            f"as: {shown(wanted)}"
        )
    count = len(sites)
    result = Shapes(_examples(inputs, base))

    def note(lengths: dict[str, int], found: list[tuple[int, ...]]) -> None:
        result.lengths.append(lengths)
        result.draws.append(found[:count])
        result.outputs.append(found[count:])

    assert first is not None  # noqa: S101 - the loop above ended with a result
    note(dict(base), first)
    free = [axis for axis in axes if not fixed or axis == batch]
    for axis in list(free):
        done = 0
        for step in (1, -1, 2, 3) if axis == batch else (*_STEPS, base[axis]):
            lengths = {**base, axis: base[axis] + step}
            if done < _MOST and (found := shapes_at(lengths)) is not None:
                note(lengths, found)
                done += 1
        if done < _FEWEST:
            free.remove(axis)
    # All axes at once, by the largest steps at which each of them ran alone.
    both = {axis: max(lengths[axis] for lengths in result.lengths) if axis in free else base[axis] for axis in axes}
    if (found := shapes_at(both)) is not None:
        note(both, found)
    kept = [lengths for lengths in result.lengths if all(lengths[a] == base[a] for a in axes if a not in free)]
    indices = [result.lengths.index(lengths) for lengths in kept]
    result.lengths = [{axis: lengths[axis] for axis in free} for lengths in kept]
    result.draws = [result.draws[index] for index in indices]
    result.outputs = [result.outputs[index] for index in indices]
    return result


def batch_axis(inputs: Sequence[LiveInput], axes: Mapping[str, tuple[str, int]]) -> str | None:
    """The free axis that is axis 0 of the first input that has one."""
    for item in inputs:
        if item.dims and isinstance(item.dims[0], str) and axes[item.dims[0]] == (item.name, 0):
            return item.dims[0]
    return None


def _neutral_runner(proto: onnx.ModelProto, path: Path, sites: Sequence[Site]) -> Runner:
    """Runs the graph with constants in place of the draws; its results are the shapes of all draws and outputs."""
    import onnx
    from onnx import helper

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    types = types_of(proto)
    draws = {site.node.output[0]: site for site in sites}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Dropout":
            nodes += without_dropout(node, types)
        elif node.output[0] in draws:
            nodes += _noise_of_shape(draws[node.output[0]], types, graph)
        else:
            nodes.append(node)
    outputs = [value.name for value in graph.output]
    shapes = []
    for index, name in enumerate([*(site.like for site in sites), *outputs]):
        shapes.append(f"_shape_{index}")
        if name:
            nodes.append(helper.make_node("Shape", [name], [shapes[-1]]))
        else:
            graph.initializer.append(integers(f"_fixed_{index}", sites[index].fixed))
            nodes.append(helper.make_node("Identity", [f"_fixed_{index}"], [shapes[-1]]))
    replace_all(graph.node, nodes)
    replace_all(graph.output, [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in shapes])
    del graph.value_info[:]
    drop_unread(graph)
    try:
        return load_graph(model, path)
    except MemoryError as error:
        raise UsageError(f"{path}: memory ran out while it was loaded.") from error


def _noise_of_shape(site: Site, types: Mapping[str, int], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """A tensor of ones in the shape of a draw, which serves as any noise."""
    from onnx import TensorProto, helper, numpy_helper

    output = site.node.output[0]
    kind = attribute(site.node, "dtype", 0) or types.get(output, 0) or TensorProto.FLOAT
    one = numpy_helper.from_array(np.ones(1, helper.tensor_dtype_to_np_dtype(kind)))
    size = f"{output}_size"
    if site.like:
        first = helper.make_node("Shape", [site.like], [size])
    else:
        graph.initializer.append(integers(f"{size}_fixed", site.fixed))
        first = helper.make_node("Identity", [f"{size}_fixed"], [size])
    return [first, helper.make_node("ConstantOfShape", [size], [output], value=one)]
