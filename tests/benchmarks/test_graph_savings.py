"""The variants of the graph: same predictions as the exported graph, with other operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.graph_savings import gates_apart, scale_in_weights, write_variant, zero_padding
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.onnxruntime.cpu import OrtEngine
from self2self.runtime.model import load_model

IMAGE = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)


def prediction(path: Path, exported: Path) -> FloatArray:
    model = replace(load_model(exported), path=path)
    masks = MaskMaker(model.contract.masks, {"H": 96, "W": 96}, 0).make(0, 1)
    with OrtEngine(model, IMAGE) as engine:
        return engine.run(masks)[0]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


@pytest.mark.parametrize(
    ("change", "more", "fewer"),
    [(gates_apart, {"Conv": 7}, {"Split": 7}), (scale_in_weights, {}, {"Mul": 10})],
)
def test_the_same_function_in_other_operators(
    change: Callable[[onnx.GraphProto], None],
    more: dict[str, int],
    fewer: dict[str, int],
    tiny_onnx: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "changed.onnx"
    write_variant(tiny_onnx, change, path)
    expected = operators(tiny_onnx)
    expected.update(more)
    expected.subtract(fewer)
    assert +operators(path) == +expected
    np.testing.assert_allclose(prediction(path, tiny_onnx), prediction(tiny_onnx, tiny_onnx), atol=1e-5)


def test_other_padding_changes_more_at_the_border_than_inside(tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.onnx"
    write_variant(tiny_onnx, zero_padding, path)
    assert operators(path)["Pad"] == 0
    difference = np.abs(prediction(path, tiny_onnx) - prediction(tiny_onnx, tiny_onnx))
    assert difference[:, 0].mean() > 2 * difference[:, 40:56, 40:56].mean() > 0
