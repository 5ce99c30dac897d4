"""Checks that windows over the ends of the network cover the image, and change the result by rounding only."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.machine.workers import Workers
from self2self.model.contract import IMAGE, Contract, mask_specs
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.registry import engine_class, get_engine
from self2self.runtime.engines.windows import (
    WHOLE_PIXELS,
    Load,
    Runner,
    SideBySide,
    Values,
    WindowedPass,
    halved,
    in_turn,
    network_parts,
    reach_in_pixels,
    spans,
)
from self2self.runtime.memory_budget import pass_bytes
from self2self.runtime.model import Model, read_proto


@given(length=st.integers(1, 300).map(lambda n: 2 * n), largest=st.integers(2, 400), reach=st.integers(0, 9))
@settings(max_examples=200)
def test_spans_of_one_size_cover_an_axis_with_enough_around(length: int, largest: int, reach: int) -> None:
    found = spans(length, largest, reach)
    assert [span.first for span in found] == [0, *(span.last for span in found[:-1])]
    assert found[-1].last == length
    assert len({span.stop - span.start for span in found}) == 1
    needed = length + (len(found) - 1) * 2 * (reach + reach % 2)
    assert sum(span.stop - span.start for span in found) <= needed + 2 * len(found), "no more than that"
    for span in found:
        assert all(edge % 2 == 0 for edge in (span.start, span.stop, span.first, span.last))
        assert span.start == 0 or span.first - span.start >= reach
        assert span.stop == length or span.stop - span.last >= reach
        assert 0 <= span.start <= span.first < span.last <= span.stop <= length
    assert halved(slice(4, 10)) == slice(2, 5)


def test_a_graph_is_cut_behind_the_first_pooling_and_before_the_last_upsampling(tiny_model: Model) -> None:
    graph = read_proto(tiny_model.path).graph
    parts = network_parts(graph)
    assert parts is not None
    assert (reach_in_pixels(parts.enter), reach_in_pixels(parts.leave)) == (2, 3)
    assert {value.name for value in parts.enter.input} == {"input_mask", "image"}
    read = {value.name for value in parts.leave.input}
    assert read == {parts.below, parts.skip, "dropout_mask_8", "dropout_mask_9"}
    assert len(parts.enter.node) + len(parts.middle.node) + len(parts.leave.node) == len(graph.node)
    again = network_parts(parts.middle)
    assert again is not None
    assert "dropout_mask_6" in {value.name for value in again.leave.input}


def test_other_graphs_are_not_cut(tiny_model: Model) -> None:
    graph = read_proto(tiny_model.path).graph
    for node in graph.node:
        if node.op_type == "MaxPool":
            node.op_type = "AveragePool"
    assert network_parts(graph) is None


def runner_of(opset: Any) -> Load:
    ort = pytest.importorskip("onnxruntime")

    def load(graph: onnx.GraphProto, count: int) -> list[Runner]:
        return [load_one(graph) for _ in range(count)]

    def load_one(graph: onnx.GraphProto) -> Runner:
        proto = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

        def run(values: Values) -> list[FloatArray]:
            outputs: list[FloatArray] = session.run(None, {i.name: values[i.name] for i in session.get_inputs()})
            return outputs

        return run

    return load


@pytest.mark.parametrize(("side_by_side", "workers"), [(in_turn, 1), (in_turn, 3), (Workers(4).run, 4)])
@pytest.mark.parametrize(("height", "width"), [(96, 160), (64, 224)])
def test_windows_give_what_the_whole_gives(
    tiny_model: Model, height: int, width: int, side_by_side: SideBySide, workers: int
) -> None:
    proto = read_proto(tiny_model.path)
    load = runner_of(proto.opset_import)
    masks = MaskMaker(tiny_model.contract.masks, {"H": height, "W": width}, seed=2).make(0, 2)
    image = np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)
    values = {IMAGE: image, **masks}
    whole = WindowedPass(proto.graph, height, width, load, whole_pixels=height * width)
    cut = WindowedPass(
        proto.graph,
        height,
        width,
        load,
        workers=workers,
        side_by_side=side_by_side,
        window_pixels=lambda _: 32 * 32,
        whole_pixels=0,
    )
    assert whole.parts is None
    assert cut.parts is not None
    first = cut.run(values).copy()
    np.testing.assert_allclose(first, whole.run(values), atol=1e-5)
    assert cut._middle.parts is not None, "the middle is cut again"
    np.testing.assert_array_equal(cut.run(values), first)
    assert len(cut._enter.runners) == workers
    assert cut.copy_seconds > whole.copy_seconds == 0


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_mnn_in_windows(tiny_model: Model, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("MNN")
    from self2self.runtime.engines.mnn import engine as mnn_engine

    monkeypatch.setattr(mnn_engine, "compute_threads", lambda: threads)
    image = np.random.default_rng(0).random((1, 3, 256, 288), dtype=np.float32)
    masks = MaskMaker(tiny_model.contract.masks, {"H": 256, "W": 288}, seed=2).make(0, 1)
    results = {}
    for name in ("mnn", "torch"):
        with get_engine(name)(tiny_model, image) as engine:
            results[name] = engine.run(masks).copy()
            if name == "mnn":
                assert engine._networks[0].windowed.parts is not None  # type: ignore[attr-defined]
                np.testing.assert_array_equal(engine.run(masks), results[name])
    np.testing.assert_allclose(results["mnn"], results["torch"], atol=1e-3)


def test_windows_are_in_the_estimate_of_memory() -> None:
    contract = Contract(3, mask_specs(3, 48, (96, 96, 96, 96, 96), 0.4, 0.4))
    engine = engine_class("mnn")

    def estimate(side: int) -> int:
        return engine.pass_bytes(contract, {"H": side, "W": side})

    def further(side: int) -> int:
        return engine.further_pass_bytes(contract, {"H": side, "W": side})

    assert WHOLE_PIXELS == 128**2
    whole, windowed = estimate(128), estimate(512)
    assert further(128) == whole
    assert 0 < further(512) < windowed, "they share out the windows"
    assert whole == pass_bytes(contract, {"H": 128, "W": 128})
    # Beyond what windows take together, a pixel takes far less.
    assert (estimate(1024) - windowed) / (1024**2 - 512**2) < whole / 128**2 / 3
