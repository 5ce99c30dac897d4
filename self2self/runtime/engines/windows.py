"""Splits a pass into parts: the layers at full resolution run window by window, the rest on the whole image.

The two ends of the network, before the first pooling and after the last upsampling, take most of a pass's memory. Their
results depend on few surrounding pixels: one for each 3x3 convolution. So the ends can run over windows that overlap by
these few pixels, with the masks of the whole image, and the result is the same to rounding. Tiles (`ensemble.tiles`)
cut the whole network instead, whose results depend on far more surroundings.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from self2self.machine.workers import Work
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.graphs import Runner, Values

if TYPE_CHECKING:
    import onnx

WHOLE_PIXELS = 2**14
"""An image of at most this many pixels runs as a whole."""
WINDOW_VALUES = 1_100_000
"""Approximate number of values of a window that the widest convolution reads and writes: 67x67 pixels, 240 channels."""
POOLING = 2
"""Factor between the resolutions of two levels."""
ROW_GAP = 16
"""Unused values after each row of the activations that the parts hand on."""


@dataclass(frozen=True, slots=True)
class Span:
    """A window along one axis, and the part of its result that is used.

    Attributes:
        start, stop: limits of the input, in pixels of the image; even.
        first, last: limits of the used result, in pixels of the image; even.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def window(self) -> slice:
        """The input, in pixels of the image."""
        return slice(self.start, self.stop)

    @property
    def used(self) -> slice:
        """The used result, in pixels of the image."""
        return slice(self.first, self.last)

    @property
    def inner(self) -> slice:
        """The used result, in pixels of the window."""
        return slice(self.first - self.start, self.last - self.start)


def halved(part: slice) -> slice:
    """`part` at half the resolution."""
    return slice(part.start // POOLING, part.stop // POOLING)


def spans(length: int, largest: int, reach: int) -> list[Span]:
    """Evenly spread windows of equal size along an axis; a single one where `largest` allows it.

    All have the same size, because an engine is laid out for one size at a time.

    Args:
        length: of the axis, in pixels; even.
        largest: approximate used pixels of a window; raised to four times `reach`.
        reach: number of surrounding pixels on each side that a result depends on.
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
    """Rows and columns of the windows, of about `pixels` pixels each, that cover an image; `reach` as for `spans`."""
    rows = spans(height, math.isqrt(pixels), reach)
    columns = spans(width, pixels // (rows[0].stop - rows[0].start), reach)
    return ((row, column) for row in rows for column in columns)


@dataclass(frozen=True, slots=True)
class NetworkParts:
    """A graph in three parts; each part has the constants that it reads.

    Attributes:
        enter: from the image to `skip`, at full resolution, and `pooled`, at half.
        middle: from `pooled` to `below`, at half resolution.
        leave: from `below` and `skip` to the output.
        pooled, skip, below: names of these values in the graph.
    """

    enter: onnx.GraphProto
    middle: onnx.GraphProto
    leave: onnx.GraphProto
    pooled: str
    skip: str
    below: str


def network_parts(graph: onnx.GraphProto) -> NetworkParts | None:
    """Cut `graph` after its first pooling and before its last upsampling; None if the graph has another form."""
    constants = {entry.name for entry in graph.initializer}
    inputs = {value.name for value in graph.input}
    pools = [node for node in graph.node if node.op_type == "MaxPool"]
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    if not pools or not resizes:
        return None
    pooled, below = pools[0].output[0], resizes[-1].input[0]
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}

    def before(name: str) -> set[int]:
        """Indices of the nodes that the value `name` depends on."""
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
    """Number of surrounding pixels that an output depends on: one for each convolution, all of which are 3x3."""
    return sum(node.op_type == "Conv" for node in graph.node)


def window_pixels(graph: onnx.GraphProto) -> int:
    """Approximate pixels of a window for which `graph` keeps to `WINDOW_VALUES`."""
    shapes = {entry.name: entry.dims for entry in graph.initializer}
    channels = [sum(shapes[node.input[1]][:2]) for node in graph.node if node.op_type == "Conv"]
    return WINDOW_VALUES // max(channels, default=1)


def _reads(graph: onnx.GraphProto, indices: Iterable[int], name: str) -> bool:
    return any(name in graph.node[index].input for index in indices)


def _part(graph: onnx.GraphProto, indices: list[int], constants: set[str], outputs: list[str]) -> onnx.GraphProto:
    """The nodes of `graph` with these indices as a graph of their own."""
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


Load = Callable[["onnx.GraphProto", int], Sequence[Runner]]
"""Makes the given number of runners of a graph, which may run at the same time."""
SideBySide = Callable[[Work, int], None]
"""Calls a work with the numbers from 0 up to a count, at the same time, and returns when all calls have ended."""


def in_turn(work: Work, count: int) -> None:
    """A `SideBySide` that makes the calls one after the other, without threads."""
    for index in range(count):
        work(index)


@dataclass(frozen=True, slots=True)
class _End:
    """A part at full resolution.

    Attributes:
        runners: each computes the part for one window at a time.
        inputs: names of the part's inputs.
        windows: rows and columns of all windows.
        copy_seconds: seconds that each runner spent on copies into the outputs.
        outputs: of the whole image, reused by every pass: fresh memory would cost a page fault for every 4 KiB.
    """

    runners: Sequence[Runner]
    inputs: list[str]
    windows: list[tuple[Span, Span]]
    copy_seconds: list[float]
    outputs: list[FloatArray] = field(default_factory=list)


class WindowedPass:
    """Runs a graph in parts, and its middle part in parts again, until the middle is small enough to run as a whole.

    Args:
        graph: the graph to run.
        height, width: size of its outputs, in pixels.
        load: makes runners of a graph.
        workers: largest number of windows that are computed at the same time.
        side_by_side: computes them at the same time.
        window_pixels: gives the approximate pixels of a window of a part.
        whole_pixels: largest number of pixels that run as a whole.
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
        """Seconds that went into copying windows into the outputs."""
        if self.parts is None:
            return 0.0
        ends = sum(sum(end.copy_seconds) / len(end.copy_seconds) for end in (self._enter, self._leave))
        return ends + self._middle.copy_seconds

    def run(self, values: Values) -> FloatArray:
        """The graph's output; the next run overwrites it. `values` may contain more than the graph reads."""
        parts = self.parts
        if parts is None:
            return self._whole(values)[0]
        skip, pooled = self._cover(self._enter, values, {})
        below = self._middle.run({**values, parts.pooled: pooled})
        (output,) = self._cover(self._leave, {**values, parts.skip: skip}, {parts.below: below})
        return output

    def _cover(self, end: _End, values: Values, coarse: Values) -> list[FloatArray]:
        """Outputs of `end` for the whole image, window by window; the inputs `coarse` have half the resolution."""
        count = len(end.runners)

        def work(index: int) -> None:
            for place in end.windows[index::count]:
                self._compute(end, index, place, values, coarse)

        if not end.outputs:
            # The result of the first window shows how many channels the outputs have.
            self._compute(end, 0, end.windows[0], values, coarse)
        self._side_by_side(work, count)
        return end.outputs

    def _compute(self, end: _End, runner: int, place: tuple[Span, Span], values: Values, coarse: Values) -> None:
        """Compute one window of `end` and copy it to its place in the outputs."""
        row, column = place
        given = {name: values[name][..., row.window, column.window] for name in end.inputs if name not in coarse}
        for name, value in coarse.items():
            given[name] = value[..., halved(row.window), halved(column.window)]
        computed = end.runners[runner](given)
        start = time.perf_counter()
        if not end.outputs:
            height, width = self._size
            # Where a graph has two outputs, the second has half the resolution.
            sizes = [self._size, (height // POOLING, width // POOLING)][: len(computed)]
            pairs = zip(computed, sizes, strict=True)
            end.outputs.extend(_empty_with_row_gaps((*part.shape[:-2], *size)) for part, size in pairs)
        for index, (output, part) in enumerate(zip(end.outputs, computed, strict=True)):
            used = [(row.used, row.inner), (column.used, column.inner)]
            if index == 1:
                used = [(halved(there), halved(here)) for there, here in used]
            (rows, inner_rows), (columns, inner_columns) = used
            output[..., rows, columns] = part[..., inner_rows, inner_columns]
        end.copy_seconds[runner] += time.perf_counter() - start


def _empty_with_row_gaps(shape: tuple[int, ...]) -> FloatArray:
    """An array whose rows lie no power of two apart: rows of a window would displace each other from the cache."""
    return np.empty((*shape[:-1], shape[-1] + ROW_GAP), np.float32)[..., : shape[-1]]
