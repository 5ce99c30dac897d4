"""A pass in parts: what the network does at full resolution, window by window; the rest for the whole image.

The two ends of the network, before the first pooling and after the last upsampling, hold most of a
pass's memory, and see only a few pixels far: one for each 3x3 convolution. So they can run over
windows that overlap by so little, with the masks of the whole image, and the result is the same to
rounding. Tiles (`tiling`) cut the whole network instead, which sees farther.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.machine.workers import Work
from self2self.runtime.engines.engine import FloatArray

if TYPE_CHECKING:
    import onnx

WHOLE_PIXELS = 2**14
"""An image of so many pixels runs as one, without parts."""
WINDOW_VALUES = 1_100_000
"""What the convolution with most channels reads and writes of a window, about: of 67x67 pixels for 240 channels."""
POOLING = 2
ROW_GAP = 16
"""Unused values behind each row of what the parts hand on."""


@dataclass(frozen=True, slots=True)
class Span:
    """A window along one axis, and what of its result is used.

    Attributes:
        start, stop: of what goes in, in pixels of the image; even.
        first, last: of what is used, in pixels of the image; even.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def window(self) -> slice:
        """What goes in."""
        return slice(self.start, self.stop)

    @property
    def used(self) -> slice:
        """Where the result goes."""
        return slice(self.first, self.last)

    @property
    def inner(self) -> slice:
        """What of the window's result is used."""
        return slice(self.first - self.start, self.last - self.start)


def halved(part: slice) -> slice:
    """The same place at half the resolution."""
    return slice(part.start // POOLING, part.stop // POOLING)


def spans(length: int, largest: int, reach: int) -> list[Span]:
    """Windows of one size along an axis of `length`, evenly spread: one where `largest` allows it.

    Of one size, because an engine is laid out for one size at a time.

    Args:
        length: even.
        largest: used pixels of a window, about; not less than four times `reach` is taken.
        reach: pixels by which a result depends on its surroundings.
    """
    count = -(-length // max(largest, 4 * reach, POOLING))
    halo = -(-reach // POOLING)
    half = length // POOLING
    size = min(half, -(-(half + 2 * halo * (count - 1)) // count))
    starts = [i * (half - size) // max(1, count - 1) for i in range(count)]
    edges = [0, *(start + halo for start in starts[1:]), half]
    return [
        Span(*(POOLING * edge for edge in (start, start + size, first, last)))
        for start, (first, last) in zip(starts, pairwise(edges), strict=True)
    ]


def windows(height: int, width: int, pixels: int, reach: int) -> Iterator[tuple[Span, Span]]:
    """Rows and columns of the windows of about `pixels` that cover an image."""
    rows = spans(height, math.isqrt(pixels), reach)
    columns = spans(width, pixels // (rows[0].stop - rows[0].start), reach)
    return ((row, column) for row in rows for column in columns)


@dataclass(frozen=True, slots=True)
class NetworkParts:
    """A graph in three parts; constants are in each part that reads them.

    Attributes:
        enter: from the image to `skip`, at full resolution, and `pooled`, at half.
        middle: from `pooled` to `below`, at half resolution.
        leave: from `below` and `skip` to the output.
        pooled, skip, below: names of the values.
    """

    enter: onnx.GraphProto
    middle: onnx.GraphProto
    leave: onnx.GraphProto
    pooled: str
    skip: str
    below: str


def network_parts(graph: onnx.GraphProto) -> NetworkParts | None:
    """Cut `graph` behind its first pooling and before its last upsampling; None if it is not of this form."""
    constants = {entry.name for entry in graph.initializer}
    inputs = {value.name for value in graph.input}
    pools = [node for node in graph.node if node.op_type == "MaxPool"]
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    if not pools or not resizes:
        return None
    pooled, below = pools[0].output[0], resizes[-1].input[0]
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}

    def before(name: str) -> set[int]:
        found: set[int] = set()
        left = [name]
        while left:
            index = makers.get(left.pop())
            if index is not None and index not in found:
                found.add(index)
                left += graph.node[index].input
        return found

    enter = before(pooled)
    middle = before(below) - enter
    leave = set(range(len(graph.node))) - enter - middle
    made = {kind: {n for i in kept for n in graph.node[i].output} for kind, kept in (("e", enter), ("m", middle))}
    read = {kind: {n for i in kept for n in graph.node[i].input} for kind, kept in (("m", middle), ("l", leave))}
    skips = made["e"] & read["l"]
    masks_read_twice = any(len([1 for part in (enter, middle, leave) if _reads(graph, part, n)]) > 1 for n in inputs)
    if made["e"] & read["m"] != {pooled} or made["m"] & read["l"] != {below} or len(skips) != 1 or masks_read_twice:
        return None
    (skip,) = skips
    outputs = [value.name for value in graph.output]
    return NetworkParts(
        _part(graph, sorted(enter), constants, [skip, pooled]),
        _part(graph, sorted(middle), constants, [below]),
        _part(graph, sorted(leave), constants, outputs),
        pooled,
        skip,
        below,
    )


def reach_in_pixels(graph: onnx.GraphProto) -> int:
    """Pixels by which an output depends on its surroundings, where every convolution is 3x3: one for each."""
    return sum(node.op_type == "Conv" for node in graph.node)


def window_pixels(graph: onnx.GraphProto) -> int:
    """Pixels of a window, about, that keep to `WINDOW_VALUES`."""
    shapes = {entry.name: entry.dims for entry in graph.initializer}
    channels = [sum(shapes[node.input[1]][:2]) for node in graph.node if node.op_type == "Conv"]
    return WINDOW_VALUES // max(channels, default=1)


def _reads(graph: onnx.GraphProto, indices: Iterable[int], name: str) -> bool:
    return any(name in graph.node[index].input for index in indices)


def _part(graph: onnx.GraphProto, indices: list[int], constants: set[str], outputs: list[str]) -> onnx.GraphProto:
    from onnx import TensorProto, helper

    nodes = [graph.node[index] for index in indices]
    made = {name for node in nodes for name in node.output}
    read = [name for node in nodes for name in node.input if name and name not in made]
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), [None] * 4)

    return helper.make_graph(
        nodes,
        graph.name,
        [value(name) for name in dict.fromkeys(read) if name not in constants],
        [value(name) for name in outputs],
        [entry for entry in graph.initializer if entry.name in read],
    )


Values = Mapping[str, NDArray[Any]]
"""Inputs of a graph by name, [..., H, W]."""
Runner = Callable[[Values], list[FloatArray]]
"""Computes a graph: its outputs, in their order, which the next call may overwrite."""
Load = Callable[["onnx.GraphProto", int], Sequence[Runner]]
"""Makes so many runners of a graph, which may run at the same time."""
SideBySide = Callable[[Work, int], None]
"""Calls a work with 0 to one less than a number, at the same time, and returns when all have ended."""


def in_turn(work: Work, count: int) -> None:
    """A `SideBySide` without threads."""
    for index in range(count):
        work(index)


@dataclass(frozen=True, slots=True)
class _End:
    """A part at full resolution.

    Attributes:
        runners: each computes it for a window at a time.
        inputs: their names.
        windows: where they lie.
        copy_seconds: what each of them spent on copies into the outputs.
        outputs: for the whole image, kept from pass to pass: fresh memory would cost a page fault for every 4 KiB.
    """

    runners: Sequence[Runner]
    inputs: list[str]
    windows: list[tuple[Span, Span]]
    copy_seconds: list[float]
    outputs: list[FloatArray] = field(default_factory=list)


class WindowedPass:
    """A graph that is run in parts, and its middle again in parts, until windows are small enough.

    Args:
        graph: what to run.
        height, width: of its outputs.
        load: makes a graph ready to run.
        workers: windows that are computed at the same time, at most.
        side_by_side: how.
        window_pixels: of a window of a part, about.
        whole_pixels: up to so many the graph runs as one.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        height: int,
        width: int,
        load: Load,
        *,
        workers: int = 1,
        side_by_side: SideBySide = in_turn,
        window_pixels: Callable[[onnx.GraphProto], int] = window_pixels,
        whole_pixels: int = WHOLE_PIXELS,
    ) -> None:
        self._size = height, width
        self._side_by_side = side_by_side
        self.parts = network_parts(graph) if height * width > whole_pixels else None
        if self.parts is None:
            (self._whole,) = load(graph, 1)
        else:
            self._enter, self._leave = (
                self._end(graph, load, workers, window_pixels(graph)) for graph in (self.parts.enter, self.parts.leave)
            )
            self._middle = WindowedPass(
                self.parts.middle,
                height // POOLING,
                width // POOLING,
                load,
                workers=workers,
                side_by_side=side_by_side,
                window_pixels=window_pixels,
                whole_pixels=whole_pixels,
            )

    def _end(self, graph: onnx.GraphProto, load: Load, workers: int, pixels: int) -> _End:
        places = list(windows(*self._size, pixels, reach_in_pixels(graph)))
        count = min(workers, len(places))
        return _End(load(graph, count), [value.name for value in graph.input], places, [0.0] * count)

    @property
    def copy_seconds(self) -> float:
        """Time that went into putting windows together."""
        if self.parts is None:
            return 0.0
        ends = sum(sum(end.copy_seconds) / len(end.copy_seconds) for end in (self._enter, self._leave))
        return ends + self._middle.copy_seconds

    def run(self, values: Values) -> FloatArray:
        """The graph's output for inputs that may hold more than it reads; the next run overwrites it."""
        parts = self.parts
        if parts is None:
            return self._whole(values)[0]
        skip, pooled = self._cover(self._enter, values, {})
        below = self._middle.run({**values, parts.pooled: pooled})
        (output,) = self._cover(self._leave, {**values, parts.skip: skip}, {parts.below: below})
        return output

    def _cover(self, end: _End, values: Values, coarse: Values) -> list[FloatArray]:
        """Outputs of `end` for the whole image, window by window; `coarse` has half the resolution."""
        count = len(end.runners)

        def work(index: int) -> None:
            for place in end.windows[index::count]:
                self._compute(end, index, place, values, coarse)

        if not end.outputs:
            # The first window tells how many channels they have.
            self._compute(end, 0, end.windows[0], values, coarse)
        self._side_by_side(work, count)
        return end.outputs

    def _compute(self, end: _End, runner: int, place: tuple[Span, Span], values: Values, coarse: Values) -> None:
        """One window of `end`, into its place in the outputs."""
        row, column = place
        given = {name: values[name][..., row.window, column.window] for name in end.inputs if name not in coarse}
        for name, value in coarse.items():
            given[name] = value[..., halved(row.window), halved(column.window)]
        computed = end.runners[runner](given)
        start = time.perf_counter()
        if not end.outputs:
            height, width = self._size
            # Of a graph with two outputs, the second has half the resolution.
            sizes = [self._size, (height // POOLING, width // POOLING)][: len(computed)]
            pairs = zip(computed, sizes, strict=True)
            end.outputs.extend(_rows_apart((*part.shape[:-2], *size)) for part, size in pairs)
        for index, (output, part) in enumerate(zip(end.outputs, computed, strict=True)):
            used = [(row.used, row.inner), (column.used, column.inner)]
            if index == 1:
                used = [(halved(there), halved(here)) for there, here in used]
            (rows, inner_rows), (columns, inner_columns) = used
            output[..., rows, columns] = part[..., inner_rows, inner_columns]
        end.copy_seconds[runner] += time.perf_counter() - start


def _rows_apart(shape: tuple[int, ...]) -> FloatArray:
    """Memory for an image whose rows are no power of two apart: those of a window would displace each other."""
    return np.empty((*shape[:-1], shape[-1] + ROW_GAP), np.float32)[..., : shape[-1]]
