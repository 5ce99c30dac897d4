"""Finds the nodes of a graph that draw random numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from self2self.errors import UsageError, typed
from self2self.live.contract import Draw, keep_count_of
from self2self.live.foreign.graph import attribute, constant_of, path_of
from self2self.live.model import all_nodes, subgraphs
from self2self.live.patterns import Patterns

if TYPE_CHECKING:
    import onnx

NOISE: dict[str, Draw] = {
    "RandomUniform": "uniform",
    "RandomUniformLike": "uniform",
    "RandomNormal": "normal",
    "RandomNormalLike": "normal",
}
_DRAWING = {*NOISE, "Bernoulli", "Dropout"}
_NO_RULE = {"Multinomial"}


@dataclass(frozen=True, slots=True)
class Site:
    """A node that draws.

    Attributes:
        node: the node.
        path: its name, or that of its output.
        like: the value whose shape the draw has; empty for a fixed shape.
        fixed: that shape.
        draw: what the new input is drawn from.
        keep: of a mask, the probability of True.
        ratio: name of the computed drop rate of a Dropout; empty for a constant.
    """

    node: onnx.NodeProto
    path: str
    like: str
    fixed: tuple[int, ...] = ()
    draw: Draw = "mask"
    keep: float | None = None
    ratio: str = ""


def find_sites(proto: onnx.ModelProto, path: Path, was_on: set[str], *, all_dropout: bool) -> list[Site]:
    """All nodes that draw.

    Raises:
        UsageError: there is none, or one that cannot become an input.
    """
    graph = proto.graph
    sites, off = [], 0
    for node in graph.node:
        for inner in subgraphs(node):
            for hidden in all_nodes(inner.node):
                if hidden.op_type in _DRAWING - {"Dropout"} | _NO_RULE or (
                    hidden.op_type == "Dropout" and (all_dropout or _is_on(graph, hidden, was_on))
                ):
                    raise UsageError(
                        f"{path}: {path_of(hidden)} draws inside {node.op_type} ({path_of(node)}), and each run of "
                        "that may draw other shapes. Draw before it."
                    )
        if node.op_type in _NO_RULE:
            raise UsageError(f"{path}: {path_of(node)} draws with {node.op_type}, for which there is no rule.")
        if node.op_type == "Dropout":
            if all_dropout or _is_on(graph, node, was_on):
                sites += _dropout_site(graph, node, path)
            else:
                off += 1
        elif node.op_type == "Bernoulli":
            chance = _chance(graph, node.input[0])
            rounded = None if chance is None or not 0 < chance < 1 else keep_count_of(chance)
            draw: Draw = "uniform" if rounded is None else "mask"
            sites.append(Site(node, path_of(node), node.input[0], draw=draw, keep=chance))
        elif node.op_type in NOISE:
            like = node.input[0] if node.input else ""
            fixed = tuple(attribute(node, "shape", ()))
            sites.append(Site(node, path_of(node), like, fixed, draw=NOISE[node.op_type]))
    if not sites:
        more = f"; {off} Dropout nodes are switched off. Keep them: {typed('--all-dropout')}." if off else "."
        raise UsageError(f"{path}: no node draws random numbers, so there is no dropout to keep{more}")
    return sites


def _is_on(graph: onnx.GraphProto, node: onnx.NodeProto, was_on: set[str]) -> bool:
    """Whether a Dropout drops; one whose switch is computed or an input does."""
    if node.output[0] in was_on:
        return True
    if len(node.input) < 3 or not node.input[2]:
        return False
    value = constant_of(graph, node.input[2])
    return value is None or bool(value.any())


def _dropout_site(graph: onnx.GraphProto, node: onnx.NodeProto, path: Path) -> list[Site]:
    """The draw of a Dropout; none if it keeps all."""
    ratio: float | None = float(attribute(node, "ratio", 0.5))
    if len(node.input) > 1 and node.input[1]:
        value = constant_of(graph, node.input[1])
        ratio = None if value is None else float(value.reshape(-1)[0]) if value.size == 1 else float("nan")
    site = Site(node, path_of(node), node.input[0])
    if ratio is None:
        return [replace(site, draw="uniform", ratio=node.input[1])]
    if not 0 <= ratio < 1:
        raise UsageError(f"{path}: {site.path} has a drop rate of {ratio:g}; expected one from 0 to below 1.")
    if ratio == 0:
        return []
    rounded = keep_count_of(1 - ratio)
    return [replace(site, keep=1 - ratio, draw="uniform" if rounded is None else "mask")]


def _chance(graph: onnx.GraphProto, name: str) -> float | None:
    """The number of which all elements of a value are; None where it is not one constant, or not seen to be."""
    from onnx import numpy_helper

    values = constant_of(graph, name)
    if values is None:
        for node in graph.node:
            if name in node.output and node.op_type in ("Expand", "Identity", "Cast", "CastLike"):
                return _chance(graph, node.input[0])
            if name in node.output and node.op_type == "ConstantOfShape":
                given = attribute(node, "value", None)
                values = np.zeros(1) if given is None else numpy_helper.to_array(given)
    if values is None or values.size == 0 or not (values == values.flat[0]).all():
        return None
    return float(values.flat[0])


def is_wanted(site: Site, path: Path, patterns: Patterns) -> bool:
    """Whether the patterns keep a draw; a UsageError if they do not, and it cannot be left out."""
    wanted = patterns.keep(site.path)
    if not wanted and site.node.op_type != "Dropout":
        raise UsageError(
            f"{path}: {site.path} draws with {site.node.op_type} in any case, so it cannot be left out. Change the "
            "pattern."
        )
    return wanted
