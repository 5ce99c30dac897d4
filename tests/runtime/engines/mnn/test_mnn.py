"""Checks that the graph that MNN gets computes the same, and that files and machines without MNN get clear errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from self2self.errors import EngineUnavailableError, FileFormatError, ResourceError
from self2self.export.to_onnx import build_model, serialise
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.mnn import engine as mnn_engine
from self2self.runtime.engines.mnn import session as mnn_session
from self2self.runtime.engines.mnn.engine import MnnEngine
from self2self.runtime.engines.mnn.graph import for_mnn
from self2self.runtime.engines.registry import get_engine, is_installed
from self2self.runtime.model import Model, read_proto
from tests.conftest import Fitted

needs_mnn = pytest.mark.skipif(not is_installed("MNN"), reason="MNN is not installed")

SHAPE = (1, 4, 6, 8)
PADS = np.array([0, 0, 1, 2, 0, 0, 2, 1], np.int64)
WEIGHT = np.random.default_rng(1).normal(size=(6, 4, 3, 3)).astype(np.float32)
OPSETS = [helper.make_opsetid("", 18)]


def graph_of(nodes: Sequence[onnx.NodeProto], inputs: Sequence[str] = ("x",)) -> onnx.GraphProto:
    """A graph with the output "y"; inputs are float, or bool where the name starts with "mask"."""
    kinds = {name: TensorProto.BOOL if name.startswith("mask") else TensorProto.FLOAT for name in inputs}
    constants = {"w": WEIGHT, "p": PADS, "k": np.float32(1.66), "row": np.full(8, 1.66, np.float32)}
    return helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, kind, SHAPE) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def run_reference(model: onnx.ModelProto, feeds: dict[str, Any]) -> FloatArray:
    from onnx.reference import ReferenceEvaluator

    result: FloatArray = ReferenceEvaluator(model).run(None, feeds)[0]
    return result


MASK = node("Cast", "mask", "m", to=TensorProto.FLOAT)
SCALED = node("Mul", "m k", "s")
MASKED = node("Mul", "x s", "h")
REFLECTED = node("Pad", "h p", "q", mode="reflect")
FOLDED = {
    "as exported": [MASK, SCALED, MASKED, REFLECTED, node("Conv", "q w")],
    "factor first, no pad": [MASK, node("Mul", "k m", "s"), node("Mul", "s x", "h"), node("Conv", "h w")],
    "activations scaled": [MASK, node("Mul", "x m", "h"), node("Mul", "h k", "s"), node("Conv", "s w")],
    "two factors": [MASK, SCALED, node("Mul", "s k", "t"), node("Mul", "x t", "h"), node("Conv", "h w")],
    "and a row of factors": [MASK, node("Mul", "m row", "t"), node("Mul", "t k", "s"), node("Conv", "s w")],
}
KEPT = {
    "the mask is read plain, too": [MASK, SCALED, node("Concat", "m s", axis=1)],
    "an activation between": [MASK, SCALED, MASKED, node("Sigmoid", "h", "g"), node("Conv", "g w")],
    "padded by a constant": [MASK, SCALED, MASKED, node("Pad", "h p k", "q"), node("Conv", "q w")],
    "read twice": [MASK, SCALED, node("Conv", "s w", "h"), node("Conv", "s w", "g"), node("Mul", "h g")],
    "weights read twice": [MASK, SCALED, node("Conv", "s w", "h"), node("Conv", "x w", "g"), node("Mul", "h g")],
    "no convolution": [MASK, SCALED, node("Mul", "x s")],
}


def test_a_cast_that_is_not_between_floats_stays() -> None:
    """Such a cast rounds, so a graph without it would compute something else."""
    nodes = [node("Cast", "x", "i", to=TensorProto.INT32), node("Cast", "i", "f", to=TensorProto.FLOAT)]
    graph = graph_of([*nodes, node("Cast", "f", "g", to=TensorProto.FLOAT), node("Conv", "g w")])
    x = 5 * np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    rewritten = for_mnn(graph, OPSETS)
    expected = run_reference(helper.make_model(graph, opset_imports=OPSETS), {"x": x})
    np.testing.assert_allclose(run_reference(rewritten, {"x": x}), expected, rtol=1e-5, atol=1e-5)
    assert [entry.op_type for entry in rewritten.graph.node] == ["Cast", "Cast", "Conv"]


@pytest.mark.parametrize("name", [*FOLDED, *KEPT])
def test_computes_what_the_graph_says(name: str) -> None:
    graph = graph_of((FOLDED | KEPT)[name], ["x", "mask"])
    before = graph.SerializeToString()
    rewritten = for_mnn(graph, OPSETS)
    onnx.checker.check_model(rewritten)
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    mask = x[:, ::-1] > 0
    expected = run_reference(helper.make_model(graph, opset_imports=OPSETS), {"x": x, "mask": mask})
    got = run_reference(rewritten, {"x": x, "mask": mask.astype(np.uint8)})
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert sum(n.op_type == "Mul" and "k" in n.input for n in rewritten.graph.node) == (name in KEPT)
    assert graph.SerializeToString() == before, "the graph is left as it was"


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_half_precision_becomes_float32(precision: str, kind: int, tiny: Fitted, tiny_model: Model) -> None:
    half = onnx.load_from_string(serialise(build_model(tiny.network, replace(tiny.contract, precision=precision))))
    assert any(entry.data_type == kind for entry in half.graph.initializer)
    wide = for_mnn(half.graph, list(half.opset_import))
    onnx.checker.check_model(wide, full_check=True)
    assert not any(entry.data_type == kind for entry in wide.graph.initializer)
    casts = [entry for entry in wide.graph.node if entry.op_type == "Cast"]
    assert {entry.input[0] for entry in casts} == {mask.name for mask in tiny_model.contract.masks}
    assert {attribute.i for entry in casts for attribute in entry.attribute if attribute.name == "to"} == {1}


def test_no_factor_is_left_in_an_exported_graph(tiny_model: Model) -> None:
    proto = read_proto(tiny_model.path)
    scalars = {entry.name for entry in proto.graph.initializer if not entry.dims}

    def factors(graph: onnx.GraphProto) -> int:
        return sum(n.op_type == "Mul" and not scalars.isdisjoint(n.input) for n in graph.node)

    assert factors(proto.graph) == 10
    assert factors(for_mnn(proto.graph, list(proto.opset_import)).graph) == 0


def image_for(model: Model, side: int = 64) -> FloatArray:
    return np.full((1, model.contract.channels, side, side), 0.5, np.float32)


def changed(model: Model, folder: Path, operator: str) -> Model:
    proto = onnx.load(model.path)
    next(entry for entry in proto.graph.node if entry.op_type == "Sigmoid").op_type = operator
    path = folder / "other.onnx"
    path.write_bytes(proto.SerializeToString())
    return replace(model, path=path)


@needs_mnn
def test_a_graph_that_it_does_not_know(tiny_model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = changed(tiny_model, tmp_path, "Convulsion")
    with pytest.raises(FileFormatError, match=r"does not know its operator Convulsion\. Use --engine ort\."):
        MnnEngine(model, image_for(model)).__enter__()
    assert capfd.readouterr().out == ""


@needs_mnn
def test_no_disk(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with (
        pytest.raises(ResourceError, match=r"No space left on device.*or use --engine ort"),
        MnnEngine(tiny_model, image_for(tiny_model)),
    ):
        pass


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.mnn.engine import MnnEngine
from self2self.runtime.model import load_model

model = load_model(Path(sys.argv[1]))
side = int(sys.argv[2])
masks = MaskMaker(model.contract.masks, {"H": side, "W": side}, 0).make(0, int(sys.argv[4]))
with MnnEngine(model, np.zeros((1, 3, side, side), np.float32)) as engine:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[3]), resource.RLIM_INFINITY))
    try:
        engine.run(masks)
    except MemoryError:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print("out of memory", file=sys.stderr)
    assert np.isfinite(engine.run(masks)).all()
assert "MNN.tools" not in sys.modules
"""


@needs_mnn
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize(("room", "message"), [(4 * 10**6, "out of memory\n"), (4 * 10**9, "")])
def test_no_memory_and_a_clean_stdout(room: int, message: str, passes: int, tiny_model: Model) -> None:
    """The library's output, with or without an error, stays off stdout, which is for results."""
    command = [sys.executable, "-c", LIMITED, str(tiny_model.path), "256", str(room), str(passes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", message)


READ_LATER = """
import sys
from pathlib import Path
import numpy as np
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.mnn.engine import MnnEngine
from self2self.runtime.model import load_model

model = load_model(Path(sys.argv[1]))
side = int(sys.argv[2])
masks = MaskMaker(model.contract.masks, {"H": side, "W": side}, 0).make(0, 1)
with MnnEngine(model, np.full((1, 3, side, side), 0.5, np.float32)) as engine:
    prediction = engine.run(masks)
    before = prediction.copy()
np.testing.assert_array_equal(prediction, before)
"""


@needs_mnn
@pytest.mark.parametrize("side", [128, 160])
def test_a_prediction_outlives_the_engine(side: int, tiny_model: Model) -> None:
    """Runs in a process of its own, because a read of freed memory would crash it; as a whole and in windows."""
    command = [sys.executable, "-c", READ_LATER, str(tiny_model.path), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_mnn
@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes stdout")
def test_without_a_stdout(tiny_model: Model) -> None:
    """A daemon may be started without a stdout."""
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", READ_LATER, str(tiny_model.path), "64"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_mnn
def test_output_of_others_is_not_lost(tiny_model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    os.write(1, b"before\n")
    with MnnEngine(tiny_model, image_for(tiny_model)) as engine:
        engine.run(MaskMaker(tiny_model.contract.masks, {"H": 64, "W": 64}, 0).make(0, 1))
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "before\nafter\n"


@needs_mnn
def test_stdout_is_restored_when_two_threads_silence_it(capfd: pytest.CaptureFixture[str]) -> None:
    inside, entered, left = Event(), Event(), Event()

    def first() -> None:
        with mnn_session.silenced_stdout():
            inside.set()
            # The second thread enters within this time, unless it has to wait.
            entered.wait(0.5)
        left.set()

    def second() -> None:
        inside.wait()
        with mnn_session.silenced_stdout():
            entered.set()
            left.wait()

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


@needs_mnn
def test_the_module_that_reports_its_use_is_not_loaded(tiny_model: Model) -> None:
    with get_engine("mnn")(tiny_model, image_for(tiny_model)):
        # MNN's own converter module installs a package and reports each conversion over the network.
        assert not any(name.startswith("MNN.tools") for name in sys.modules)


@needs_mnn
@pytest.mark.parametrize("side", [64, 160])
def test_passes_run_side_by_side(side: int, tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The predictions have the same bits as one after the other, as a whole and in windows."""
    monkeypatch.setattr(mnn_engine, "compute_threads", lambda: 3)
    image = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    maker = MaskMaker(tiny_model.contract.masks, {"H": side, "W": side}, 0)
    with MnnEngine(tiny_model, image) as engine:
        alone = np.concatenate([engine.run(maker.make(index, 1)).copy() for index in range(7)])
        counts = []
        for count in (2, 7, 1, 1, 2, 3, 2, 2):
            np.testing.assert_array_equal(engine.run(maker.make(0, count)), alone[:count])
            assert engine._networks is not None
            counts.append(len(engine._networks))
            assert (engine._networks[0].windowed.parts is not None) == (side > 64)
        assert counts == [2, 3, 3, 1, 2, 3, 3, 2], "passes may end with a smaller batch, once"
        assert engine.copy_seconds > 0


def test_passes_are_side_by_side_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnn_engine, "compute_threads", lambda: 3)
    assert MnnEngine.useful_batch({"H": 128, "W": 128}) == 3
    assert MnnEngine.useful_batch({"H": 256, "W": 256}) == 3
    assert MnnEngine.useful_batch({"H": 256, "W": 288}) == 1


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MNN", None)
    with pytest.raises(EngineUnavailableError) as caught:
        MnnEngine.version()
    assert str(caught.value) == "engine mnn: MNN is not installed. Install it: pip install MNN. Use --engine auto."
