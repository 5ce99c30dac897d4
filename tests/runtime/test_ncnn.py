"""The translation to ncnn, operator by operator, and the engine on files that it cannot run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from self2self.errors import EngineUnavailableError, FileFormatError, ResourceError
from self2self.runtime.engine import FloatArray
from self2self.runtime.model import Model, load_model, read_proto
from self2self.runtime.ncnn_engine import NcnnEngine
from self2self.runtime.ncnn_graph import UnsupportedGraphError, translate

SHAPE = (1, 4, 6, 8)
PADS = np.array([0, 0, 1, 2, 0, 0, 2, 1], np.int64)


def graph_of(nodes: Sequence[onnx.NodeProto], inputs: Sequence[str] = ("x",), **constants: Any) -> onnx.GraphProto:
    """A graph from float inputs, of bool where the name starts with "mask", to the output "y"."""
    kinds = {name: TensorProto.BOOL if name.startswith("mask") else TensorProto.FLOAT for name in inputs}
    return helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, kind, SHAPE) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    # A dash stands for an input that is left out.
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), **attributes)


def run_ncnn(graph: onnx.GraphProto, feeds: dict[str, Any], folder: Path) -> FloatArray:
    ncnn = pytest.importorskip("ncnn")
    translated = translate(graph)
    (folder / "weights.bin").write_bytes(translated.weights)
    net = ncnn.Net()
    net.opt.num_threads = 1
    for name in ("packed", "storage", "arithmetic"):
        setattr(net.opt, f"use_fp16_{name}", False)
    assert net.load_param_mem(translated.param) == 0
    assert net.load_model(str(folder / "weights.bin")) == 0
    extractor = net.create_extractor()
    kept = []
    for name, value in feeds.items():
        fed = translated.inputs[name]
        kept.append(ncnn.Mat(np.multiply(value[0], np.float32(fed.scale), dtype=np.float32)).clone())
        assert extractor.input(fed.blob, kept[-1]) == 0
    failed, result = extractor.extract(translated.outputs["y"])
    assert failed == 0
    return np.array(result)


def run_reference(graph: onnx.GraphProto, feeds: dict[str, Any]) -> FloatArray:
    from onnx.reference import ReferenceEvaluator

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    result: FloatArray = ReferenceEvaluator(model).run(None, feeds)[0][0]
    return result


def feeds_of(graph: onnx.GraphProto) -> dict[str, Any]:
    source = np.random.default_rng(0)
    values: dict[str, Any] = {}
    for value in graph.input:
        drawn = source.normal(size=SHAPE).astype(np.float32)
        values[value.name] = drawn > 0 if value.name.startswith("mask") else drawn
    return values


WEIGHT = np.random.default_rng(1).normal(size=(6, 4, 3, 3)).astype(np.float32)
BIAS = np.arange(6, dtype=np.float32)
SCALES = np.array([1, 1, 2, 2], np.float32)
UP = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}

GRAPHS = {
    "convolution": graph_of([node("Conv", "x w b")], w=WEIGHT, b=BIAS),
    "convolution without bias": graph_of([node("Conv", "x w", strides=[2, 1], pads=[1, 0, 1, 2])], w=WEIGHT),
    "cast to float": graph_of([node("Cast", "x", "h", to=TensorProto.FLOAT), node("Sigmoid", "h")]),
    "reflect pad": graph_of([node("Pad", "x p", mode="reflect")], p=PADS),
    "pad and convolution": graph_of(
        [node("Pad", "x p", "h", mode="reflect"), node("Conv", "h w b")], p=PADS, w=WEIGHT, b=BIAS
    ),
    "activation in the convolution": graph_of([node("Conv", "x w", "h"), node("LeakyRelu", "h", alpha=0.2)], w=WEIGHT),
    "gate in the convolution": graph_of([node("Conv", "x w", "h"), node("Sigmoid", "h")], w=WEIGHT),
    "convolution read twice": graph_of(
        [node("Conv", "x w", "h"), node("Sigmoid", "h", "g"), node("Mul", "h g")], w=WEIGHT
    ),
    "one activation after another": graph_of(
        [node("Conv", "x w", "h"), node("LeakyRelu", "h", "g", alpha=0.2), node("Sigmoid", "g")], w=WEIGHT
    ),
    "input read three times": graph_of([node("LeakyRelu", "x", "h", alpha=0.2), node("Concat", "x h x", axis=1)]),
    "product": graph_of([node("Sigmoid", "x", "h"), node("Mul", "h z")], ["x", "z"]),
    "product with a number": graph_of([node("Sigmoid", "x", "h"), node("Mul", "h k")], k=np.float32(1.66)),
    "scaled mask": graph_of(
        [node("Cast", "mask", "m", to=1), node("Mul", "m k", "s"), node("Mul", "x s")],
        ["x", "mask"],
        k=np.float32(1.66),
    ),
    "mask read scaled and plain": graph_of(
        [node("Cast", "mask", "m", to=1), node("Mul", "k m", "s"), node("Concat", "m s", axis=1)],
        ["mask"],
        k=np.float32(1.66),
    ),
    "even split": graph_of([node("Split", "x", "a b", axis=1, num_outputs=2), node("Mul", "a b")]),
    "uneven split": graph_of([node("Split", "x s", "a b", axis=1), node("Concat", "b a", axis=1)], s=np.array([1, 3])),
    "max pool": graph_of([node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2])]),
    "upsampling": graph_of([node("Resize", "x - s", **UP)], s=SCALES),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_computes_what_the_graph_says(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]
    feeds = feeds_of(graph)
    np.testing.assert_allclose(run_ncnn(graph, feeds, tmp_path), run_reference(graph, feeds), rtol=1e-5, atol=1e-5)


REFUSED = {
    "operator Softmax": [node("Softmax", "x")],
    "Cast to a type other than a float": [node("Cast", "x", to=TensorProto.INT64)],
    "Concat along another axis": [node("Concat", "x x", axis=2)],
    "Conv with groups": [node("Conv", "x w", group=2)],
    "Conv with computed weights": [node("Conv", "x x")],
    "MaxPool with padding": [node("MaxPool", "x", kernel_shape=[2, 2], pads=[1, 1, 1, 1])],
    "Mul by a constant that is not one number": [node("Mul", "x w")],
    "Pad in another mode than reflect": [node("Pad", "x p", mode="edge")],
    "Pad of other axes": [node("Pad", "x c", mode="reflect")],
    "Pad with a computed argument": [node("Pad", "x x", mode="reflect")],
    "Resize by other than repeating": [node("Resize", "x - s", mode="linear")],
    "Split along another axis": [node("Split", "x", "y z", axis=2)],
    "constant w where a computed value": [node("Sigmoid", "w")],
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_known_is_named(text: str) -> None:
    graph = graph_of(REFUSED[text], w=WEIGHT, p=PADS, s=SCALES, c=np.array([0, 1, 0, 0, 0, 0, 0, 0]))
    with pytest.raises(UnsupportedGraphError, match=text):
        translate(graph)


def test_folds_casts_scales_and_activations(tiny_model: Model) -> None:
    from self2self.runtime.model import read_proto

    translated = translate(read_proto(tiny_model.path).graph)
    layers = [line.split() for line in translated.param.splitlines()[2:]]
    kinds = [layer[0] for layer in layers]
    assert kinds.count("Convolution") == 18
    assert "Cast" not in kinds
    # The seven gates keep theirs, since a slice stands before it.
    assert kinds.count("ReLU") == kinds.count("Sigmoid") == 7
    masks = tiny_model.contract.masks
    expected = {mask.name: 1 / mask.keep_probability for mask in masks} | {"image": 1.0, "input_mask": 1.0}
    assert {name: fed.scale for name, fed in translated.inputs.items()} == pytest.approx(expected)


def image_for(model: Model) -> FloatArray:
    return np.full((1, model.contract.channels, 64, 64), 0.5, np.float32)


def test_a_graph_that_it_does_not_know(tiny_model: Model, tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    proto = onnx.load(tiny_model.path)
    next(entry for entry in proto.graph.node if entry.op_type == "Sigmoid").op_type = "HardSigmoid"
    path = tmp_path / "other.onnx"
    path.write_bytes(proto.SerializeToString())
    model = load_model(path)
    with pytest.raises(FileFormatError, match=r"does not know its operator HardSigmoid\. Use --engine ort\."):
        NcnnEngine(model, image_for(model)).__enter__()


def test_no_memory_and_no_disk(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ncnn")

    class Failing:
        def extract(self, blob: str) -> tuple[int, None]:
            return self.code, None

        def input(self, blob: str, mat: object) -> int:
            return 0

        def __init__(self, code: int) -> None:
            self.code = code

    engine = NcnnEngine(tiny_model, image_for(tiny_model))
    masks = {mask.name: np.ones((1, *mask.shape({"H": 64, "W": 64})), np.bool_) for mask in tiny_model.contract.masks}
    for code, error in ((-100, MemoryError), (-1, FileFormatError)):
        with engine:
            net = type("Net", (), {"create_extractor": lambda self, code=code: Failing(code)})()
            assert engine._staged is not None
            engine._staged._whole = partial(engine._extract, net, translate(read_proto(tiny_model.path).graph))
            with pytest.raises(error):
                engine.run(masks)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match=r"No space left on device.*or use --engine ort"), engine:
        pass


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(EngineUnavailableError) as caught:
        NcnnEngine.version()
    assert str(caught.value) == ("engine ncnn: ncnn is not installed. Install it: pip install ncnn. Use --engine ort.")
