"""Makes the draws of an ONNX file inputs; see the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from self2self.errors import FileFormatError, UsageError, first_line, shown, typed
from self2self.live.contract import (
    OF_CLASSES,
    Kind,
    LiveContract,
    LiveInput,
    LiveMask,
    LiveOutput,
    keep_count_of,
    kinds_of,
)
from self2self.live.draws import axes_of
from self2self.live.foreign.graph import identifier, leave_out_dropout
from self2self.live.foreign.measured_sizes import Measured, expression_of
from self2self.live.foreign.reading import prepare, read
from self2self.live.foreign.rewriting import difference_from, rewritten
from self2self.live.foreign.shapes import Shapes, batch_axis, inputs_of, measure
from self2self.live.foreign.sites import Site, find_sites, is_wanted
from self2self.live.model import LiveModel, all_nodes
from self2self.live.patterns import Patterns
from self2self.live.probes import are_samples_separable, refuse_idle_draws, refuse_wrong_kinds
from self2self.live.sizes import Size, evaluate

if TYPE_CHECKING:
    import onnx

_ALL = Patterns()


@dataclass(frozen=True, slots=True)
class Converted:
    """A file of another program with its draws as inputs.

    Attributes:
        proto: the graph, without metadata.
        contract: of it.
        difference: largest difference from the original with equal draws, relative to the output; None where ONNX
            Runtime cannot run the original.
    """

    proto: onnx.ModelProto
    contract: LiveContract
    difference: float | None


def convert(
    path: Path,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed: bool = False,
    all_dropout: bool = False,
    patterns: Patterns = _ALL,
    kind: Kind | Sequence[Kind] = "value",
) -> Converted:
    """Make the draws of an ONNX file inputs; arguments and errors are those of `export.export_live_onnx`."""
    try:
        return _converted(path, shapes or {}, fixed, all_dropout, patterns, kind)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # Of a damaged file, anything may be missing or of another type than ONNX says; names may be no text.
        raise FileFormatError(f"{path}: is damaged, or no valid ONNX model ({shown(first_line(error))}).") from error


def _converted(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    fixed: bool,
    all_dropout: bool,
    patterns: Patterns,
    kind: Kind | Sequence[Kind],
) -> Converted:
    proto = read(path)
    graph = proto.graph
    was_on = prepare(proto, path)
    found = find_sites(proto, path, was_on, all_dropout=all_dropout)
    sites = [site for site in found if is_wanted(site, path, patterns)]
    patterns.check([site.path for site in found], f"{path}: ")
    leave_out_dropout(proto, {site.node.output[0] for site in sites})
    inputs, axes = inputs_of(graph, path, shapes)
    measured = measure(proto, path, sites, inputs, axes, shapes, fixed=fixed)
    contract, orders = _contract(graph, path, sites, inputs, axes, measured, kind)
    new = rewritten(proto, sites, contract, orders)
    live = LiveModel(path, contract, new)
    examples = measured.examples
    largest = difference_from(proto, path, sites, live, orders, examples)
    contract = replace(contract, separable=are_samples_separable(live, examples))
    refuse_idle_draws(live, examples)
    refuse_wrong_kinds(live, examples)
    return Converted(new, contract, largest)


def _contract(
    graph: onnx.GraphProto,
    path: Path,
    sites: Sequence[Site],
    inputs: Sequence[LiveInput],
    axes: Mapping[str, tuple[str, int]],
    measured: Shapes,
    kind: Kind | Sequence[Kind],
) -> tuple[LiveContract, list[list[int]]]:
    """The contract, and for each draw the order of its axes in the input: that of the batch comes first."""
    free = set(measured.lengths[0])
    base = axes_of(axes, measured.examples)
    fixed_inputs = tuple(
        LiveInput(item.name, item.dtype, tuple(d if isinstance(d, int) or d in free else base[d] for d in item.dims))
        for item in inputs
    )
    batch = batch_axis(fixed_inputs, axes)
    masks, orders = [], []
    names = {name for node in all_nodes(graph.node) for name in (*node.input, *node.output)}
    for index, site in enumerate(sites):
        shapes = [shapes[index] for shapes in measured.draws]
        dims = [_dim(path, site, measured.lengths, [shape[axis] for shape in shapes]) for axis in range(len(shapes[0]))]
        with_batch = [axis for axis, dim in enumerate(dims) if _depends(dim, batch, base)]
        order = list(range(len(dims)))
        if with_batch and with_batch[0] != 0:
            order.insert(0, order.pop(with_batch[0]))
        sizes = tuple(dims[axis] for axis in order)
        batched = len(with_batch) == 1 and _counts(sizes[0], batch, base)
        name = f"{'mask' if site.draw == 'mask' else 'noise'}_{identifier(site.path)}"
        while name in names:
            name += "_"
        names.add(name)
        keep = None if site.draw != "mask" or site.keep is None else keep_count_of(site.keep)
        masks.append(LiveMask(name, site.path, site.node.op_type, site.draw, keep, sizes, batched))
        orders.append(order)
    kinds = kinds_of(kind, [value.name for value in graph.output])
    outputs = []
    for index, (value, one) in enumerate(zip(graph.output, kinds, strict=True)):
        shapes = [shapes[index] for shapes in measured.outputs]
        rows = [shape[0] if shape else 0 for shape in shapes]
        counts = batch is not None and rows == [lengths[batch] for lengths in measured.lengths]
        if one in OF_CLASSES and len(shapes[0]) < 2:
            raise UsageError(
                f"output {value.name} has {len(shapes[0])} axes, so it has no {one}: classes are on axis 1."
            )
        outputs.append(LiveOutput(value.name, one, counts))
    places = {axis: place for axis, place in axes.items() if axis in free}
    return LiveContract(fixed_inputs, tuple(outputs), tuple(masks), places, batch, separable=False), orders


def _dim(path: Path, site: Site, lengths: Sequence[Mapping[str, int]], sizes: list[int]) -> Size:
    found = expression_of(Measured(lengths, sizes))
    if found is None:
        raise UsageError(
            f"{path}: the sizes {', '.join(map(str, sizes[:6]))} of the draw {site.path} follow no simple rule from "
            f"the lengths of the inputs. Fix all axes but the batch: {typed('--fixed')}, with the lengths of "
            f"{typed('--shape')}."
        )
    return found


def _depends(dim: Size, batch: str | None, base: Mapping[str, int]) -> bool:
    return batch is not None and len({evaluate(dim, {**base, batch: count}) for count in (1, 2, 3, 64)}) > 1


def _counts(dim: Size, batch: str | None, base: Mapping[str, int]) -> bool:
    """Whether a size is the batch times a number."""
    if batch is None:
        return False
    one = evaluate(dim, {**base, batch: 1})
    return all(evaluate(dim, {**base, batch: count}) == count * one for count in (2, 3, 64))
