"""Checks that the tiny model of the probe has the exporter's graph, and that it shows when a mask is ignored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from self2self.model.contract import INPUT_MASK
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.probe import INT8_TOLERANCE
from self2self.runtime.engines.probe_model import Case, build_probe, make_case
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.model import Model, load_model

if TYPE_CHECKING:
    import onnx


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case()


@pytest.fixture
def model(case: Case, tmp_path: Path) -> Model:
    path = tmp_path / "probe.onnx"
    path.write_bytes(case.model)
    return load_model(path)


def wiring(graph: onnx.GraphProto) -> list[tuple[str, tuple[Any, ...], tuple[Any, ...]]]:
    """Operators with the origins of their inputs and the attributes that change their result, without names."""
    from onnx import helper, numpy_helper

    origin: dict[str, Any] = {value.name: value.name for value in graph.input}
    for entry in graph.initializer:
        array = numpy_helper.to_array(entry)
        # Constants are compared by value, weights only by their number of axes, because widths may differ.
        origin[entry.name] = array.tolist() if array.ndim < 2 and array.size in (1, 4, 8) else f"weight {array.ndim}"
        if entry.name.endswith((".weight", ".bias")):
            origin[entry.name] = f"weight {array.ndim}"
    rows = []
    for index, node in enumerate(graph.node):
        told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kept = ("axis", "num_outputs", "mode", "nearest_mode", "coordinate_transformation_mode", "kernel_shape", "to")
        options = [(name, told[name]) for name in kept if name in told]
        if "alpha" in told:
            options.append(("alpha", round(told["alpha"], 6)))
        if node.op_type == "MaxPool":
            options.append(("strides", told["strides"]))
        rows.append((node.op_type, tuple(str(origin.get(name, name)) for name in node.input), tuple(map(str, options))))
        origin |= {name: f"{index}.{number}" for number, name in enumerate(node.output)}
    return rows


def test_its_graph_is_the_exporters(tiny_onnx: Path) -> None:
    import onnx

    exported, probe = onnx.load(str(tiny_onnx)), build_probe()
    assert len(probe.graph.node) == len(exported.graph.node) > 100
    for number, (got, expected) in enumerate(zip(wiring(probe.graph), wiring(exported.graph), strict=True)):
        assert got == expected, f"node {number}"
    assert probe.opset_import[0].version == exported.opset_import[0].version
    assert probe.ir_version == exported.ir_version
    assert [value.name for value in probe.graph.input] == [value.name for value in exported.graph.input]
    onnx.checker.check_model(probe, full_check=True)


@pytest.mark.parametrize("name", ["ort", "torch"])
def test_the_reference_agrees_with_engines(name: str, case: Case, model: Model) -> None:
    with get_engine(name)(model, case.image) as engine:
        np.testing.assert_allclose(engine.run(case.masks), case.expected, rtol=0, atol=1e-5)


def test_each_mask_that_is_ignored_shows(case: Case, model: Model) -> None:
    def predict(masks: dict[str, BoolArray]) -> FloatArray:
        return engine.run(masks).copy()

    with get_engine("ort")(model, case.image) as engine:
        for name, mask in case.masks.items():
            ignored = {**case.masks, name: np.ones_like(mask)}
            assert np.abs(predict(ignored) - case.expected).max() > INT8_TOLERANCE, name
    assert INPUT_MASK in case.masks
