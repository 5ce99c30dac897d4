"""ONNX files of other programs: their random nodes become inputs, whatever form they have."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from self2self.errors import FileFormatError, InputError, Self2SelfError, UsageError
from self2self.live.draws import draw_pass
from self2self.live.export import LiveExport, export_live_onnx
from self2self.live.model import LiveModel, load_live

onnxruntime = pytest.importorskip("onnxruntime")

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


def constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def model(
    nodes: list[onnx.NodeProto],
    *,
    opset: int = 13,
    shape: Any = ("n", 4),
    weights: list[onnx.TensorProto] | None = None,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
) -> onnx.ModelProto:
    """A graph from `x` to `y`."""
    if inputs is None:
        inputs = [helper.make_tensor_value_info("x", FLOAT, shape)]
    graph = helper.make_graph(
        nodes,
        "foreign",
        inputs,
        outputs or [helper.make_tensor_value_info("y", FLOAT, None)],
        [constant("w", WEIGHTS), *(weights or [])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def with_dropout(opset: int, **options: Any) -> onnx.ModelProto:
    """``y = dropout(tanh(x)) @ w`` with a rate of a quarter, in the form of an opset."""
    weights = []
    if opset < 12:
        attributes = {"ratio": 0.25, **({"is_test": options.get("is_test", 0)} if opset < 7 else {})}
        if opset < 6:
            attributes["consumed_inputs"] = [0]
        node = helper.make_node("Dropout", ["h"], ["d"], name="drop", **attributes)
    else:
        weights = [constant("rate", np.float32(0.25)), constant("on", np.array(options.get("on", True)))]
        node = helper.make_node("Dropout", ["h", "rate", "on"], ["d"], name="drop")
    nodes = [helper.make_node("Tanh", ["x"], ["h"]), node, helper.make_node("MatMul", ["d", "w"], ["y"])]
    return model(nodes, opset=opset, weights=weights)


def convert(made: onnx.ModelProto, folder: Path, **options: Any) -> tuple[LiveExport, LiveModel]:
    source = folder / "foreign.onnx"
    source.write_bytes(made.SerializeToString())
    done = export_live_onnx(source, folder / "live.onnx", **options)
    return done, load_live(folder / "live.onnx")


def drawn_by(live: LiveModel, x: np.ndarray, index: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the file computes with the draws of a pass, and these draws."""
    axes = {axis: x.shape[place] for axis, (_, place) in live.contract.axes.items()}
    draws = draw_pass(live.contract, axes, 3, index)
    arrays = {live.contract.inputs[0].name: x}
    return dict(live.one_pass(arrays, live.once(arrays), draws)), draws


@pytest.mark.parametrize("opset", [1, 6, 7, 9, 10, 12, 13, 17, 22])
def test_a_dropout_of_every_opset_becomes_a_mask(opset: int, tmp_path: Path) -> None:
    done, live = convert(with_dropout(opset), tmp_path, all_dropout=6 < opset < 12)
    (mask,) = live.contract.masks
    assert (mask.site, mask.operator, mask.draw, mask.dims, mask.keep_count) == (
        "drop",
        "Dropout",
        "mask",
        ("n", 4),
        49152,
    )
    assert live.contract.separable
    assert live.computed_once
    assert done.onnx_difference is None if 8 < opset < 12 else done.onnx_difference < 1e-6
    got, draws = drawn_by(live, X)
    wanted = (np.tanh(X.astype(np.float64)) * draws[mask.name] / 0.75) @ WEIGHTS
    np.testing.assert_allclose(got["y"], wanted, rtol=1e-5, atol=1e-6)
    assert not live.path.read_bytes().count(b"Dropout\x1a")


def test_passes_are_distributed_as_those_of_onnx_runtime(tmp_path: Path) -> None:
    made = with_dropout(13)
    _, live = convert(made, tmp_path)
    found = live.predict(X, 4000, seed=1)
    options = onnxruntime.SessionOptions()
    # Otherwise ONNX Runtime removes Dropout, even where it is switched on.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    own = session.run(None, {"x": np.tile(X, (4000, 1))})[0].reshape(4000, 5, 3).astype(np.float64)
    z = (found.mean - own.mean(0)) / np.sqrt((found.std.astype(np.float64) ** 2 + own.var(0)) / 4000)
    assert 0.4 < np.sqrt(np.mean(z**2)) < 1.8
    assert abs(np.mean(found.std / own.std(0)) - 1) < 0.02


def test_a_dropout_that_is_off_stays_off_unless_all_are_wanted(tmp_path: Path) -> None:
    for opset, options in ((13, {"on": False}), (6, {"is_test": 1}), (10, {})):
        made = with_dropout(opset, **options)
        with pytest.raises(UsageError, match=r"1 Dropout nodes are switched off\. Keep them: --all-dropout"):
            convert(made, tmp_path)
        assert not (tmp_path / "live.onnx").exists()
        done, _ = convert(made, tmp_path, all_dropout=True)
        assert [mask.site for mask in done.contract.masks] == ["drop"]
        (tmp_path / "live.onnx").unlink()


@pytest.mark.parametrize("how", ["folded", "cast", "input"])
def test_the_switch_may_be_a_constant_node_or_an_input(how: str, tmp_path: Path) -> None:
    nodes = {
        "folded": [helper.make_node("Constant", [], ["on"], value=constant("", np.array(True)))],
        "cast": [
            helper.make_node("Constant", [], ["one"], value_int=1),
            helper.make_node("Cast", ["one"], ["cast"], to=BOOL),
            helper.make_node("Identity", ["cast"], ["on"]),
        ],
        "input": [],
    }[how]
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["n", 4])]
    if how == "input":
        inputs.append(helper.make_tensor_value_info("on", BOOL, []))
    nodes.append(helper.make_node("Dropout", ["x", "", "on"], ["y"]))
    _, live = convert(model(nodes, inputs=inputs), tmp_path)
    assert [item.name for item in live.contract.inputs] == ["x"]
    assert live.contract.masks[0].keep_count == 32768
    got, draws = drawn_by(live, X)
    np.testing.assert_allclose(got["y"], 2 * X * draws[live.contract.masks[0].name], rtol=1e-6)


@pytest.mark.parametrize("opset", [9, 13])
def test_the_mask_of_a_dropout_may_be_used(opset: int, tmp_path: Path) -> None:
    weights = [constant("rate", np.float32(0.25)), constant("on", np.array(True))] if opset > 11 else []
    drop = helper.make_node("Dropout", ["x", *(["rate", "on"] if weights else [])], ["d", "m"])
    if not weights:
        drop.attribute.append(helper.make_attribute("ratio", 0.25))
    nodes = [drop, helper.make_node("Cast", ["m"], ["f"], to=FLOAT), helper.make_node("Add", ["d", "f"], ["y"])]
    _, live = convert(model(nodes, opset=opset, weights=weights), tmp_path, all_dropout=opset < 12)
    got, draws = drawn_by(live, X)
    kept = draws[live.contract.masks[0].name]
    np.testing.assert_allclose(got["y"], X * kept / 0.75 + kept, rtol=1e-6)


def test_a_rate_that_is_an_input_stays_one(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["n", 4]), helper.make_tensor_value_info("rate", FLOAT, [])]
    made = model([helper.make_node("Dropout", ["x", "rate", "on"], ["y"])], inputs=inputs)
    made.graph.initializer.append(constant("on", np.array(True)))
    _, live = convert(made, tmp_path)
    assert [item.name for item in live.contract.inputs] == ["x", "rate"]
    found = live.predict({"x": np.ones((1, 4), np.float32), "rate": np.array(0.3, np.float32)}, 2000)
    np.testing.assert_allclose(found.mean, 1, atol=5 * found.std.max() / 2000**0.5)
    np.testing.assert_allclose(found.std, (0.3 / 0.7) ** 0.5, rtol=0.1)


RANDOM = {
    "bernoulli": ([helper.make_node("Sigmoid", ["x"], ["p"]), helper.make_node("Bernoulli", ["p"], ["r"])], "uniform"),
    "bernoulli of a number": (
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("ConstantOfShape", ["s"], ["p"], value=constant("", np.array([0.3], np.float32))),
            helper.make_node("Bernoulli", ["p"], ["r"]),
        ],
        "mask",
    ),
    "uniform": ([helper.make_node("RandomUniformLike", ["x"], ["r"], low=-2.0, high=1.0)], "uniform"),
    "normal": ([helper.make_node("RandomNormalLike", ["x"], ["r"], mean=0.5, scale=2.0)], "normal"),
    "uniform of a shape": ([helper.make_node("RandomUniform", [], ["r"], shape=[1, 4])], "uniform"),
    "normal of a shape": ([helper.make_node("RandomNormal", [], ["r"], shape=[4], dtype=FLOAT)], "normal"),
    "stochastic depth": (
        [
            helper.make_node("RandomUniformLike", ["x"], ["u"]),
            helper.make_node("GreaterOrEqual", ["u", "rate"], ["k"]),
            helper.make_node("Cast", ["k"], ["r"], to=FLOAT),
        ],
        "uniform",
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_noise_is_an_input_of_the_same_distribution(name: str, tmp_path: Path) -> None:
    nodes, draw = RANDOM[name]
    made = model(
        [*nodes, helper.make_node("Add", ["x", "r"], ["y"])], opset=15, weights=[constant("rate", np.float32(0.2))]
    )
    done, live = convert(made, tmp_path)
    assert [mask.draw for mask in live.contract.masks] == [draw]
    assert done.onnx_difference == 0
    # Not ONNX Runtime: its Bernoulli draws ones with one minus the probability.
    reference = ReferenceEvaluator(made)
    own = np.stack([reference.run(None, {"x": X})[0] for _ in range(400)]).astype(np.float64) - X
    got = np.stack([drawn_by(live, X, index)[0]["y"] for index in range(400)]).astype(np.float64) - X
    # Noise of a fixed shape is shared by the samples.
    count = 1600
    assert abs(own.mean() - got.mean()) < 5 * np.sqrt((own.var() + got.var()) / count)
    assert abs(own.std() / got.std() - 1) < 0.12


def test_random_operators_that_onnx_runtime_lacks_become_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Mul", ["x", "r"], ["y"])]
    made = model(nodes, opset=22)
    done, live = convert(made, tmp_path)
    got, draws = drawn_by(live, X)
    np.testing.assert_array_equal(got["y"], X * draws[live.contract.masks[0].name])
    assert done.onnx_difference is None or done.onnx_difference == 0


def convolutional(*, shape: Any = ("n", 3, "h", "w")) -> onnx.ModelProto:
    """Two strided convolutions, dropout of whole channels, a flattened image, dropout again."""
    random = np.random.default_rng(2)
    weights = [
        constant("a", random.normal(size=(4, 3, 3, 3)).astype(np.float32)),
        constant("b", random.normal(size=(6, 4, 3, 3)).astype(np.float32)),
        constant("rate", np.float32(0.25)),
        constant("on", np.array(True)),
        constant("flat", np.array([0, 6, -1], np.int64)),
        constant("one", np.array([2], np.int64)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Dropout", ["c", "rate", "on"], ["cd"], name="inner"),
        helper.make_node("Conv", ["cd", "b"], ["e"], strides=[2, 2]),
        helper.make_node("Reshape", ["e", "flat"], ["f"]),
        helper.make_node("Transpose", ["f"], ["t"], perm=[2, 0, 1]),
        helper.make_node("Dropout", ["t", "rate", "on"], ["td"], name="tokens"),
        helper.make_node("Transpose", ["td"], ["y"], perm=[1, 2, 0]),
    ]
    return model(nodes, shape=shape, weights=weights)


def test_sizes_follow_from_the_lengths_of_the_inputs(tmp_path: Path) -> None:
    done, live = convert(convolutional(), tmp_path)
    inner, tokens = live.contract.masks
    for n, h, w in ((1, 21, 64), (3, 40, 33), (2, 129, 18)):
        axes = dict(zip("nhw", (n, h, w), strict=True))
        a, b = (h + 1) // 2, (w + 1) // 2
        assert inner.shape(axes) == (n, 4, a, b)
        # The axis of the batch comes first in the input, and second in the graph.
        assert tokens.shape(axes) == (n, ((a - 3) // 2 + 1) * ((b - 3) // 2 + 1), 6)
        x = np.random.default_rng(0).normal(size=(n, 3, h, w)).astype(np.float32)
        assert live.predict(x, 2).mean.shape == (n, 6, tokens.shape(axes)[1])
    assert live.contract.separable
    assert done.onnx_difference < 1e-6


def test_axes_may_stay_fixed(tmp_path: Path) -> None:
    done, _ = convert(convolutional(), tmp_path, fixed=True, shapes={"x": (1, 3, 20, 24)})
    assert done.contract.inputs[0].dims == ("n", 3, 20, 24)
    assert list(done.contract.axes) == ["n"]
    done, _ = convert(convolutional(shape=(1, 3, 20, 24)), tmp_path)
    assert done.contract.batch is None
    assert done.contract.masks[0].dims == (1, 4, 10, 12)


def test_without_a_shape_the_user_is_told_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"input x has no shape in the file\. Give an example: --shape x=1,3,64,64$"):
        convert(convolutional(shape=None), tmp_path)
    done, _ = convert(convolutional(shape=None), tmp_path, shapes={"x": (1, 3, 20, 20)})
    assert [isinstance(dim, str) for dim in done.contract.inputs[0].dims] == [True, False, True, True]
    flat = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Dropout", ["h", "", "on"], ["y"])]
    wide = model(flat, shape=("n", "k"), weights=[constant("on", np.array(True))])
    wide.graph.initializer[0].CopyFrom(constant("w", np.ones((77, 3), np.float32)))
    with pytest.raises(UsageError, match=r"of k .*Give an example that it takes"):
        convert(wide, tmp_path)
    done, _ = convert(wide, tmp_path, shapes={"x": (1, 77)})
    # No other length runs, so the axis is fixed.
    assert done.contract.inputs[0].dims == ("n", 77)


def test_patterns_choose_nodes(tmp_path: Path) -> None:
    done, live = convert(convolutional(), tmp_path, include="tok*")
    assert [mask.site for mask in done.contract.masks] == ["tokens"]
    assert live.computed_once
    done, _ = convert(convolutional(), tmp_path, exclude="tokens")
    assert [mask.site for mask in done.contract.masks] == ["inner"]
    listed = export_live_onnx(tmp_path / "foreign.onnx", None)
    assert listed.path is None
    assert [mask.site for mask in listed.contract.masks] == ["inner", "tokens"]


def in_branch(operator: str) -> onnx.ModelProto:
    def branch(name: str, op: str) -> onnx.GraphProto:
        node = helper.make_node(op, ["x", "", "on"] if op == "Dropout" else ["x"], [name], name=f"inner_{name}")
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, FLOAT, None)])

    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch("a", operator), else_branch=branch("b", "Tanh"))]
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["n", 4]), helper.make_tensor_value_info("c", BOOL, [])]
    return model(nodes, opset=15, inputs=inputs, weights=[constant("on", np.array(True))])


def in_loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["again"]),
            helper.make_node("Dropout", ["v", "", "on"], ["next"], name="turn"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, None),
        ],
        [helper.make_tensor_value_info("again", BOOL, []), helper.make_tensor_value_info("next", FLOAT, None)],
    )
    weights = [constant("on", np.array(True)), constant("m", np.array(3)), constant("t", np.array(True))]
    return model([helper.make_node("Loop", ["m", "t", "x"], ["y"], body=body)], opset=15, weights=weights)


def elsewhere() -> onnx.ModelProto:
    made = with_dropout(13)
    tensor = made.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return made


def hidden_elsewhere() -> onnx.ModelProto:
    """A constant of a branch that is in another file."""
    made = in_branch("Tanh")
    tensor = constant("k", np.float32(1))
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    made.graph.node[0].attribute[0].g.initializer.append(tensor)
    return made


def of_another_domain() -> onnx.ModelProto:
    made = with_dropout(13)
    made.graph.node[0].domain = "com.microsoft"
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


def plain(node: onnx.NodeProto, **options: Any) -> onnx.ModelProto:
    return model([node], opset=15, **options)


REFUSED: dict[str, tuple[onnx.ModelProto, type[Self2SelfError], str]] = {
    "branch": (in_branch("Dropout"), UsageError, r"inner_a draws inside If \(y\).*Draw before it"),
    "noise in a branch": (in_branch("RandomNormalLike"), UsageError, "inner_a draws inside If"),
    "loop": (in_loop(), UsageError, "turn draws inside Loop"),
    "multinomial": (
        plain(helper.make_node("Multinomial", ["x"], ["y"], name="pick", sample_size=2)),
        UsageError,
        "pick draws with Multinomial, for which there is no rule",
    ),
    "nothing": (plain(helper.make_node("Tanh", ["x"], ["y"])), UsageError, "no node draws random numbers"),
    "rate": (
        plain(
            helper.make_node("Dropout", ["x", "rate", "on"], ["y"], name="all"),
            weights=[constant("rate", np.float32(1)), constant("on", np.array(True))],
        ),
        UsageError,
        "all has a drop rate of 1",
    ),
    "weights in another file": (elsewhere(), FileFormatError, "has weights in other files"),
    "weights of a branch in another file": (hidden_elsewhere(), FileFormatError, "has weights in other files"),
    "domain": (of_another_domain(), FileFormatError, r"has operators of other domains \(com.microsoft\)"),
    "invalid": (
        model(
            [helper.make_node("Dropout", ["x", "", "on"], ["d"]), helper.make_node("Add", ["d", "none"], ["y"])],
            weights=[constant("on", np.array(True))],
        ),
        FileFormatError,
        "ONNX Runtime cannot load it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    made, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as caught:
        convert(made, tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": {"z": (1,)}}, r"--shape names z; the inputs are x\."),
        ({"shapes": {"x": (1, 4, 4)}}, "--shape of x has 3 axes; the file says 2"),
        ({"shapes": {"x": (1, 5)}}, "axis 1 of x has 4 elements in the file, and 5 in --shape"),
        ({"include": "head"}, r"the pattern head matches no draw; the draws are drop\."),
        ({"exclude": "*"}, r"the patterns leave no draw; the draws are drop\."),
        ({"kind": "probabilities"}, "output y has no probabilities: it has values from"),
        ({"kind": "classes"}, "kind is 'classes'"),
        ({"kind": ("logits", "value")}, "kind has 2 entries; the outputs are y"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        convert(with_dropout(13), tmp_path, **options)
    assert not (tmp_path / "live.onnx").exists()


def test_noise_cannot_be_left_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["r"], name="z"), helper.make_node("Mul", ["x", "r"], ["y"])]
    with pytest.raises(UsageError, match="z draws with RandomNormalLike in any case"):
        convert(model(nodes, opset=15), tmp_path, exclude="z")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model"):
        export_live_onnx(tmp_path / "none.onnx", None)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(FileFormatError, match="is not an ONNX file or is damaged"):
        export_live_onnx(tmp_path / "text.onnx", None)


def test_normalisation_is_that_of_evaluation_mode(tmp_path: Path) -> None:
    values = [constant(name, np.full(4, value, np.float32)) for name, value in zip("sbmv", (1, 0, 0.5, 4), strict=True)]
    nodes = [
        helper.make_node(
            "BatchNormalization", ["x", "s", "b", "m", "v"], ["h", "rm", "rv"], training_mode=1, epsilon=0.0
        ),
        helper.make_node("Dropout", ["h", "", "on"], ["y"]),
    ]
    made = model(nodes, opset=15, weights=[*values, constant("on", np.array(True))])
    _, live = convert(made, tmp_path)
    got, draws = drawn_by(live, X)
    np.testing.assert_allclose(got["y"], (X - 0.5) / 2 * draws[live.contract.masks[0].name] * 2, rtol=1e-5, atol=1e-6)
    made.graph.output.append(helper.make_tensor_value_info("rm", FLOAT, [4]))
    with pytest.raises(UsageError, match="hands on its statistics"):
        convert(made, tmp_path)


def test_functions_of_the_file_are_taken_apart(tmp_path: Path) -> None:
    function = helper.make_function(
        "local",
        "Drop",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["on"], value=constant("", np.array(True))),
            helper.make_node("Dropout", ["a", "", "on"], ["b"]),
        ],
        [helper.make_opsetid("", 15)],
    )
    made = plain(helper.make_node("Drop", ["x"], ["y"], domain="local"))
    made.opset_import.append(helper.make_opsetid("local", 1))
    made.functions.append(function)
    done, _ = convert(made, tmp_path)
    assert len(done.contract.masks) == 1


@pytest.mark.parametrize("dynamo", [False, True])
def test_files_of_pytorch_in_training_mode(dynamo: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    nn = torch.nn
    # With other weights all hidden values may be 0, and then nothing drops.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3)).train()
    net[1].running_mean.uniform_()
    axes = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
    options = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False, "input_names": ["x"]}
    source = tmp_path / "torch.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(net, (torch.randn(5, 4),), source, dynamo=dynamo, external_data=False, **options, **axes)
        except (TypeError, RuntimeError) as error:
            pytest.skip(f"this PyTorch exports no training mode so: {error}")
    done = export_live_onnx(source, tmp_path / "live.onnx")
    assert [mask.operator for mask in done.contract.masks] == ["Dropout"]
    live = load_live(tmp_path / "live.onnx")
    got, draws = drawn_by(live, X)
    with torch.no_grad():
        hidden = net.eval()[:3](torch.from_numpy(X)).numpy()
        kept = draws[done.contract.masks[0].name]
        wanted = net[4](torch.from_numpy((hidden * kept / 0.75).astype(np.float32))).numpy()
    np.testing.assert_allclose(next(iter(got.values())), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"), [(b"\x12\x01n", b"\x12\x01\xff"), (b"drop", b"\xffrop"), (b"Tanh", b"\xffanh")]
)
def test_names_that_are_no_text_are_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    made = with_dropout(13).SerializeToString()
    assert old in made
    (tmp_path / "foreign.onnx").write_bytes(made.replace(old, new))
    with pytest.raises(FileFormatError, match=r"foreign\.onnx: "):
        export_live_onnx(tmp_path / "foreign.onnx", None)
