"""TensorRT-RTX reads networks with live dropout and builds engines of them without a GPU, whole and cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("onnxruntime")

from benchmarks.live_engines import built_parts
from self2self.live.export import export_live_onnx
from tests.live import graphs
from tests.live.test_foreign import convolutional, with_dropout


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_network_is_built_whole_and_cut(tmp_path: Path) -> None:
    built = built_parts(graphs.write(tmp_path / "live.onnx"), [random(1, 4)])
    assert list(built) == ["whole", "once", "each pass"]
    assert all(isinstance(layers, int) and layers > 0 for layers in built.values()), built


@pytest.mark.parametrize("name", ["dense", "convolutional"])
def test_files_of_other_programs_are_built(name: str, tmp_path: Path) -> None:
    made, x = {"dense": (with_dropout(17), random(1, 4)), "convolutional": (convolutional(), random(1, 3, 32, 32))}[
        name
    ]
    (tmp_path / "foreign.onnx").write_bytes(made.SerializeToString())
    export_live_onnx(tmp_path / "foreign.onnx", tmp_path / "live.onnx")
    built = built_parts(tmp_path / "live.onnx", [x])
    assert list(built) == ["whole", "once", "each pass"]
    assert all(isinstance(layers, int) and layers > 0 for layers in built.values()), built
