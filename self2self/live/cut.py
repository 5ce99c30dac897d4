"""Cuts a graph at its first random inputs, so that what they do not reach is computed once.

The *prefix* has all nodes that depend on data alone, the *suffix* the others. Values that the suffix needs of the
prefix become outputs of the one and inputs of the other. What depends on neither, such as weights, is in both, and so
are numbers that follow from the sizes of the data: engines want to see how sizes follow from the inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class Cut:
    """A graph in two parts.

    Attributes:
        prefix: from data to `carried`; None if there is nothing to compute once.
        suffix: from data, `carried` and random inputs to the outputs.
        carried: names of the values that go from the prefix to the suffix, and of outputs that no draw reaches.
    """

    prefix: onnx.ModelProto | None
    suffix: onnx.ModelProto
    carried: tuple[str, ...]


def cut_graph(model: onnx.ModelProto, random: Collection[str], *, ranks: bool = False) -> Cut:
    """Cut `model` at the inputs `random`.

    The arguments stay unchanged. Where the type of a value at the cut is not known, the graph stays in one part.

    Args:
        model: the graph.
        random: names of its inputs that are drawn.
        ranks: whether the number of axes of what is carried has to be known, too; most engines need it.
    """
    import onnx

    graph = model.graph
    reached = _reached(graph, {value.name for value in graph.input if value.name in random})
    data = {value.name for value in graph.input} - set(random)
    computed = _reached(graph, data)
    # What depends on data alone; what depends on nothing is in neither set.
    once = computed - reached - data
    late = [node for node in graph.node if reached & set(node.output)]
    needed = {name for node in late for name in _used(node)}
    outputs = [value.name for value in graph.output]
    computed_once = [name for node in graph.node for name in node.output if name in once]
    sizes = _sizes_of_data(graph, data, computed | reached)
    carried = [name for name in computed_once if (name in needed and name not in sizes) or name in outputs]
    types = {value.name: value for value in (*graph.value_info, *graph.output) if value.type.tensor_type.elem_type}
    if ranks and carried:
        bare = onnx.ModelProto()
        bare.CopyFrom(model)
        # Where a file tells the type of a value without its shape, none would be inferred.
        del bare.graph.value_info[:]
        inferred = onnx.shape_inference.infer_shapes(bare).graph
        values = (*inferred.value_info, *inferred.output)
        types = {value.name: value for value in values if value.type.tensor_type.HasField("shape")}
    late_outputs = [name for name in outputs if name not in once]
    if not carried or not late_outputs or any(name not in types for name in carried):
        return Cut(None, model, ())
    prefix = _part(model, carried, [], types)
    suffix = _part(model, late_outputs, carried, types)
    return Cut(prefix, suffix, tuple(carried))


def _used(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, also inside its subgraphs; these may include names that a subgraph defines."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield from _used(inner)
            yield from (value.name for value in graph.output)


def _reached(graph: onnx.GraphProto, names: set[str]) -> set[str]:
    """All values that depend on `names`, and these; the nodes of a graph are in the order of computation."""
    reached = set(names)
    for node in graph.node:
        if not reached.isdisjoint(_used(node)):
            reached.update(name for name in node.output if name)
    return reached


def _sizes_of_data(graph: onnx.GraphProto, data: set[str], varying: set[str]) -> set[str]:
    """All values that follow from the sizes of `data` and constants alone; `varying`: values that are not constant."""
    found: set[str] = set()
    for node in graph.node:
        used = set(_used(node))
        is_size = node.op_type in ("Shape", "Size") and used <= data
        if is_size or (used & found and not (used & varying) - found):
            found.update(name for name in node.output if name)
    return found


def _part(
    model: onnx.ModelProto, outputs: list[str], given: list[str], types: dict[str, onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """The part of `model` that computes `outputs` from its inputs and the values `given`."""
    import onnx

    graph = model.graph
    needed, nodes = set(outputs), []
    for node in reversed(graph.node):
        wanted = needed & set(node.output)
        if not wanted <= set(given):
            nodes.append(node)
            needed.update(_used(node))
    nodes.reverse()
    inputs = [value for value in graph.input if value.name in needed]
    inputs += [
        onnx.helper.make_tensor_value_info(name, _type(types[name]), _sizes(types[name]))
        for name in given
        if name in needed
    ]
    results = [onnx.helper.make_tensor_value_info(name, _type(types[name]), None) for name in outputs]
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    part = onnx.helper.make_graph(nodes, graph.name, inputs, results, weights)
    made: onnx.ModelProto = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    return made


def _type(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _sizes(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """The sizes of a value that are numbers; None for those that depend on the inputs, or without any shape."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
