"""Passes over arrays, with files that are written without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from self2self.errors import EngineUnavailableError, FileFormatError, InputError, Obstacle, UsageError
from self2self.live.contract import LiveInput
from self2self.live.draws import draw_pass
from self2self.live.model import FEWEST_PASSES, MOST_PASSES, LiveModel, load_live
from tests.live.graphs import WEIGHTS, contract, graph, outputs, write

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture
def live(tmp_path: Path) -> LiveModel:
    return load_live(write(tmp_path / "m.onnx"))


def passes_of(x: np.ndarray, count: int, seed: int = 0, *, shared: bool = False) -> np.ndarray:
    """The outputs of all passes, computed by NumPy."""
    axes = {"batch": len(x)}
    return np.stack([outputs(x, draw_pass(contract(), axes, seed, i, shared=shared)["mask"]) for i in range(count)])


@pytest.mark.parametrize("masks", ["independent", "shared"])
@pytest.mark.parametrize("batch", [None, 1, 2])
def test_predictions_are_those_of_the_formula(live: LiveModel, masks: Any, batch: int | None) -> None:
    assert live.computed_once
    found = live.predict(X, 20, seed=9, masks=masks, batch=batch, quantiles=(0.25,))
    wanted = passes_of(X, 20, 9, shared=masks == "shared")
    assert found.passes == 20
    np.testing.assert_allclose(found.mean, wanted.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.std, wanted.std(0, ddof=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.quantiles[0], np.quantile(wanted, 0.25, axis=0), rtol=1e-4, atol=1e-6)
    assert list(found.outputs) == ["output", "features"]
    np.testing.assert_allclose(found.outputs["features"].mean, np.tanh(X), rtol=1e-6)
    assert not found.outputs["features"].std.any()


def test_shared_masks_make_equal_samples_equal(live: LiveModel) -> None:
    same = np.repeat(X[:1], 3, axis=0)
    shared = live.predict({"x": same}, 10, masks="shared")
    np.testing.assert_array_equal(shared.mean[0], shared.mean[2])
    independent = live.predict({"x": same}, 10)
    assert (independent.mean[0] != independent.mean[2]).any()


def test_auto_stops_at_the_tolerance(live: LiveModel) -> None:
    loose, tight = live.predict(X, tolerance=0.2), live.predict(X, tolerance=1e-9)
    assert loose.passes == FEWEST_PASSES
    assert tight.passes == MOST_PASSES
    between = live.predict(X, tolerance=0.03)
    wanted = passes_of(X, between.passes)

    def error(count: int) -> float:
        part = wanted[:count]
        return np.sqrt(part.var(0, ddof=1).mean() / count) / np.sqrt((part.mean(0) ** 2).mean())

    assert FEWEST_PASSES < between.passes < MOST_PASSES
    assert error(between.passes) <= 0.03 < error(between.passes - 1)


def test_classes_need_a_kind(live: LiveModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'kind "value" or "image".*kind="logits"'):
        _ = live.predict(X, 2).mutual_information
    with pytest.raises(UsageError, match="quantiles="):
        _ = live.predict(X, 2).quantiles
    image = load_live(write(tmp_path / "image.onnx", contract("image"))).predict(X, 20)
    np.testing.assert_array_equal(image.std, live.predict(X, 20).std)
    classes = load_live(write(tmp_path / "logits.onnx", contract("logits"))).predict(X, 50)
    np.testing.assert_allclose(classes.mean.sum(1), 1, rtol=1e-6)
    assert (classes.mutual_information > 0).all()
    assert (classes.mutual_information <= classes.entropy).all()
    assert classes.variation_ratio.shape == (5,)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (X.astype(np.float64), r'input x is float64; expected float32\. Convert it with \.astype\("float32"\)'),
        (X[:, :3], r"input x has shape \[5, 3\]; expected \[batch, 4\]"),
        (X[:0], r"input x has shape \[0, 4\]"),
        (X[0], r"input x has shape \[4\]"),
        ({"y": X}, "got inputs y; expected x"),
        ({}, "got inputs none; expected x"),
    ],
)
def test_wrong_inputs_are_refused(live: LiveModel, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        live.predict(inputs, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": 1}, "passes is 1"),
        ({"passes": "many"}, "passes is 'many'"),
        ({"seed": -1}, "seed"),
        ({"masks": "balanced"}, "masks is 'balanced'"),
        ({"quantiles": (1.5,)}, "quantiles are 1.5"),
        ({"batch": 0}, "batch is 0"),
        ({"tolerance": 0}, "tolerance is 0"),
        ({"tolerance": "a"}, "tolerance is 'a'; expected a number above 0"),
        ({"tolerance": 0.1, "passes": 5}, "tolerance decides the number of passes; leave out --passes 5"),
        ({"passes": 2.5}, "passes is 2.5"),
        ({"passes": None}, "passes is None"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": 2**32}, "seed"),
        ({"quantiles": 0.5}, "quantiles is 0.5; expected numbers from 0 to 1"),
        ({"quantiles": np.array(0.5)}, "quantiles is array"),
        ({"quantiles": "0.5"}, "quantiles is '0.5'"),
        ({"quantiles": (0.5, "x")}, "quantiles is 'x'"),
        ({"batch": 2.5}, "batch is 2.5"),
    ],
)
def test_wrong_options_are_refused(live: LiveModel, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        live.predict(X, **options)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers(live: LiveModel) -> None:
    found = live.predict(
        X,
        np.int64(3),
        np.uint32(4),
        batch=np.int8(2),
        quantiles=np.array([0.5]),  # type: ignore[arg-type]
    )
    wanted = live.predict(X, 3, 4, batch=2, quantiles=(0.5,))
    assert found.passes == 3
    np.testing.assert_array_equal(found.mean, wanted.mean)
    np.testing.assert_array_equal(found.quantiles, wanted.quantiles)
    assert live.predict(X, tolerance=np.float32(0.2)).passes == FEWEST_PASSES  # type: ignore[arg-type]


def test_auto_is_the_default_engine(live: LiveModel) -> None:
    other = load_live(live.path, "auto")
    assert other.engine == live.engine == "ort"
    np.testing.assert_array_equal(other.predict(X, 3).mean, live.predict(X, 3).mean)


@pytest.mark.parametrize(("engine", "other"), [("ort", "openvino"), ("ort-cuda", "ort")])
def test_an_engine_that_is_missing_names_one_that_runs_such_files(
    engine: str, other: str, live: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(proto: Any, path: Path) -> Any:
        raise EngineUnavailableError.of(engine, Obstacle.NOT_INSTALLED, "it is not installed", "Install it.")

    monkeypatch.setattr("self2self.live.model.graph_loader", lambda name: load)
    with pytest.raises(EngineUnavailableError) as caught:
        load_live(live.path, engine)
    assert str(caught.value) == f"engine {engine}: it is not installed. Install it. Or use --engine {other}."
    assert caught.value.cause is Obstacle.NOT_INSTALLED


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_where_they_reach_an_output(
    value: float, live: LiveModel, tmp_path: Path
) -> None:
    x = X.copy()
    x[1, 2] = value
    nan = graph()
    nan.graph.node[0].op_type = "Identity"
    carries = load_live(write(tmp_path / "carries.onnx", model=nan))
    with pytest.raises(InputError, match=r"input x has 1 values that are not finite, and they reach the outputs"):
        carries.predict(x)
    # A network may want such values, as tanh does infinity.
    if value == np.inf:
        assert np.isfinite(live.predict(x, 3).mean).all()


@pytest.mark.parametrize("kind", ["logits", "value"])
def test_passes_stop_where_weights_are_not_finite(kind: Any, tmp_path: Path) -> None:
    model = graph()
    weights = WEIGHTS.copy()
    weights[0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))
    live = load_live(write(tmp_path / "nan.onnx", contract(kind), model))
    found = live.predict(X, tolerance=0.5)
    assert found.passes == FEWEST_PASSES
    assert np.isnan(found.mean[:, 0]).all()
    if kind == "logits":
        assert np.isnan(found.variation_ratio).all()


def test_samples_without_masks_of_their_own_are_not_divided(tmp_path: Path) -> None:
    live = load_live(write(tmp_path / "m.onnx", contract(separable=False)))
    assert live.predict(X, 3).passes == 3
    for options in ({"batch": 2}, {"masks": "shared"}):
        with pytest.raises(UsageError, match="do not have masks of their own"):
            live.predict(X, 3, **options)  # type: ignore[arg-type]


def remove_output(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def weights_elsewhere(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def other_type(model: onnx.ModelProto) -> None:
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def broken(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((7, 7), np.float32), "weights"))
    model.graph.node[4].op_type = "NoSuchOperator"


@pytest.mark.parametrize("change", [remove_output, foreign_operator, weights_elsewhere, other_type, broken])
def test_a_changed_graph_is_refused(change: Any, tmp_path: Path) -> None:
    model = graph()
    change(model)
    with pytest.raises(FileFormatError, match=r"m\.onnx: .*[Ee]xport it again"):
        load_live(write(tmp_path / "m.onnx", model=model))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(FileFormatError, match=r"text\.onnx: is not an ONNX file or is damaged\. Export it again"):
        load_live(tmp_path / "text.onnx")
    with pytest.raises(InputError, match=r"no such model\. Make one with: self2self export --model"):
        load_live(tmp_path / "none.onnx")
    (tmp_path / "plain.onnx").write_bytes(graph().SerializeToString())
    with pytest.raises(FileFormatError, match="has no live dropout"):
        load_live(tmp_path / "plain.onnx")


def test_wrong_sizes_of_masks_are_one_line(tmp_path: Path) -> None:
    described = contract()
    wrong = replace(described, masks=(replace(described.masks[0], dims=("batch", 5)),))
    live = load_live(write(tmp_path / "m.onnx", wrong))
    with pytest.raises(InputError, match=r"m\.onnx: the network does not run on these inputs; a size, or a value"):
        live.predict(X, 2)


def test_predictions_need_no_pytorch(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    script = (
        "import sys\n"
        "for name in ('torch', 'onnxscript', 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np, self2self\n"
        f"live = self2self.load_live({str(path)!r})\n"
        "found = live.predict(np.ones((2, 4), np.float32), 12, seed=4)\n"
        "print(found.mean.tolist())\n"
        "try:\n"
        "    self2self.export_live(None, None, 'x.onnx')\n"
        "except self2self.Self2SelfError as error:\n"
        "    print(error.exit_code, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mean, refusal = done.stdout.splitlines()
    np.testing.assert_allclose(eval(mean), passes_of(np.ones((2, 4), np.float32), 12, 4).mean(0), rtol=1e-4)
    assert refusal == "4 exporting a model needs torch. Install it: pip install torch"


def test_an_index_out_of_range_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokens = LiveInput("x", "int64", ("batch", 4))
    model = graph()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    table = np.linspace(-1, 1, 10, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    del model.graph.node[0].input[:]
    model.graph.node[0].input.extend(["table", "x"])
    model.graph.node[0].op_type = "Gather"
    live = load_live(write(tmp_path / "m.onnx", replace(contract(), inputs=(tokens,)), model))
    assert live.predict(np.full((2, 4), 9), 2).passes == 2
    with pytest.raises(InputError, match="a value such as an index, may be out of range"):
        live.predict(np.full((2, 4), 5000), 2)
    assert capfd.readouterr() == ("", "")
