"""`self2self export --model` and `self2self predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from self2self.live.draws import draw_pass
from self2self.model.contract import Contract, MaskSpec
from tests.commands import parse_json, run_cli
from tests.live.graphs import WEIGHTS, contract, graph, outputs, write
from tests.live.test_foreign import with_dropout

X = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)

NETWORKS = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.25), nn.Linear(8, 3), nn.Dropout(0.5)), torch.randn(1, 4)

same = make

def wider():
    return nn.Sequential(nn.Linear(4, 9), nn.Dropout(0.25), nn.Linear(9, 3), nn.Dropout(0.5)), torch.randn(1, 4)

def named():
    return (*make(), {"kind": "logits", "exclude": "3"})

def broken():
    raise RuntimeError("no weights\\nhere")

def leaves():
    raise SystemExit(0)

def wrong():
    return nn.Linear(4, 8)

def plain():
    return nn.Linear(4, 8), torch.randn(1, 4)

def misshaped():
    return make()[0], torch.randn(1, 5)

def specialised():
    return (*make(), {"dynamic": {"input": (0, 1)}})
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a module, a live model and inputs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "networks_of_mine.py").write_text(NETWORKS)
    (tmp_path / "damaged_module.py").write_text("import no_such_library\n")
    (tmp_path / "leaving_module.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "failing_module.py").write_text("1 / 0\n")
    np.savez(tmp_path / "inputs.npz", x=X)
    write(tmp_path / "model.onnx", contract("logits"))
    (tmp_path / "drops.onnx").write_bytes(with_dropout(13).SerializeToString())
    (tmp_path / "off.onnx").write_bytes(with_dropout(13, on=False).SerializeToString())
    yield tmp_path
    sys.modules.pop("networks_of_mine", None)


def test_a_model_is_listed_exported_and_run(folder: Path) -> None:
    pytest.importorskip("onnxscript")
    listed = run_cli("export", "--model", "networks_of_mine:make", "--sites")
    assert listed.stdout.splitlines() == [
        "module  operator  draw         shape",
        "1       dropout   true 0.7500  batch, 8",
        "3       dropout   true 0.5000  batch, 3",
    ]
    assert not list(folder.glob("make*"))
    done = parse_json(run_cli("export", "--model", "networks_of_mine:named", "--json"))
    assert done["output"] == "named.onnx"
    assert [mask["site"] for mask in done["masks"]] == ["1"]
    assert done["outputs"][0]["kind"] == "logits"
    assert max(done["max_difference"], done["neutral_difference"]) < 1e-6
    written = Path("named.onnx").read_bytes()
    (folder / ".0123456789ab.partial.onnx").write_bytes(b"of a killed process")
    again = run_cli("export", "--model", "networks_of_mine:named")
    assert again.stdout == "named.onnx: done already. To make it anew: --force\n"
    assert Path("named.onnx").read_bytes() == written
    assert not list(folder.glob(".*"))
    # Other options, other weights and a file that someone has changed are other work.
    other = run_cli("export", "--model", "networks_of_mine:named", "--kind", "value", expect=2)
    assert "named.onnx: exists already. Replace it with --force" in other.stderr
    sys.modules["networks_of_mine"].make = sys.modules["networks_of_mine"].wider  # type: ignore[attr-defined]
    other = run_cli("export", "--model", "networks_of_mine:named", expect=2)
    assert "made by the same command of other code or weights. Replace it with --force" in other.stderr
    assert Path("named.onnx").read_bytes() == written
    sys.modules["networks_of_mine"].make = sys.modules["networks_of_mine"].same  # type: ignore[attr-defined]
    chosen = run_cli("export", "--model", "networks_of_mine:make", "--only", "3", "-o", "o.onnx", "--kind", "logits")
    assert "o.onnx: 1 draws; verified against PyTorch" in chosen.stdout
    np.savez("of_sequential.npz", input=X)
    run_cli("predict", "named.onnx", "of_sequential.npz", "-o", "out.npz", "--stat", "mean,mi", "--passes", "9")
    with np.load("out.npz") as found:
        assert {name: found[name].shape for name in found.files} == {"mean": (5, 3), "mi": (5,)}


def test_predictions_are_written(folder: Path) -> None:
    options = ["--passes", "8", "--seed", "3", "--masks", "shared", "--quantiles", "0.5", "--batch", "2"]
    wanted = "mean,std,entropy,quantiles"
    done = run_cli("predict", "model.onnx", "inputs.npz", "-o", "out.npz", "--stat", wanted, *options, "--json")
    values = parse_json(done)
    assert values["passes"] == 8
    draws = [draw_pass(contract(), {"batch": 5}, 3, index, shared=True)["mask"] for index in range(8)]
    powers = np.exp([outputs(X, mask) for mask in draws])
    mean = (powers / powers.sum(2, keepdims=True)).mean(0)
    with np.load("out.npz") as found:
        names = {f"output.{name}" for name in wanted.split(",")}
        names |= {f"features.{name}" for name in ("mean", "std", "quantiles")}
        assert set(found.files) == set(values["arrays"]) == names
        np.testing.assert_allclose(found["output.mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(found["output.entropy"], -(mean * np.log(mean)).sum(1), rtol=1e-5)
        assert found["output.quantiles"].shape == (1, 5, 3)


def test_one_array_needs_no_name(folder: Path) -> None:
    np.save("x.npy", X)
    for name, output in (("inputs.npz", "named.npz"), ("x.npy", "single.npz")):
        run_cli("predict", "model.onnx", name, "-o", output, "--passes", "3")
    with np.load("named.npz") as named, np.load("single.npz") as single:
        assert named.files == single.files
        for name in named.files:
            np.testing.assert_array_equal(named[name], single[name])


def test_a_file_of_another_program_is_listed_exported_and_run(folder: Path) -> None:
    listed = run_cli("export", "--onnx", "drops.onnx", "--sites")
    assert listed.stdout.splitlines() == ["module  operator  draw         shape", "drop    Dropout   true 0.7500  n, 4"]
    assert not list(folder.glob("*.live.onnx"))
    done = parse_json(run_cli("export", "--onnx", "drops.onnx", "--kind", "logits", "--json"))
    assert done["output"] == "drops.live.onnx"
    assert done["max_difference"] < 1e-6
    run_cli("predict", "drops.live.onnx", "inputs.npz", "-o", "out.npz", "--stat", "mean,mi", "--passes", "9")
    with np.load("out.npz") as found:
        assert {name: found[name].shape for name in found.files} == {"mean": (5, 3), "mi": (5,)}
    shape = ["--shape", "x=2,4", "--fixed", "--all-dropout", "-o", "o.onnx"]
    assert "o.onnx: 1 draws; verified against the file" in run_cli("export", "--onnx", "off.onnx", *shape).stdout


def test_engines_are_measured(folder: Path) -> None:
    options = ["--engine", "ort", "--rounds", "2", "--passes", "3", "--batch", "1", "--batch", "7"]
    result = parse_json(run_cli("bench", "model.onnx", "--inputs", "inputs.npz", *options, "-o", "b.json", "--json"))
    assert [(row["engine"], row["samples"], row["ratio"]) for row in result["rows"]] == [
        ("ort", n, 1.0) for n in (1, 7)
    ]
    assert all(row["pass_ms"] > 0 and row["once_ms"] > 0 for row in result["rows"])
    assert json.loads(Path("b.json").read_text())["computed_once"]
    every = run_cli("bench", "model.onnx", "--rounds", "1").stdout.splitlines()
    assert every[0].split() == ["engine", "samples", "once", "ms", "pass", "ms", "passes/s", "ratio"]
    assert [line.split()[0] for line in every if line.strip().startswith("ort ")] == ["ort", "ort"]


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (["model.onnx", "--size", "64"], 2, "has live dropout; leave out --size"),
        (["model.onnx", "--engine", "torch"], 2, "engine is 'torch'"),
        (["model.onnx", "--inputs", "none.npz"], 3, "none.npz: no such file"),
        (["model.onnx", "--inputs", "other.npz", "--engine", "ort"], 3, "got inputs y; expected x"),
        (["--inputs", "inputs.npz"], 2, "for models with live dropout"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    folder: Path, options: list[str], exit_code: int, message: str
) -> None:
    np.savez("other.npz", y=X)
    result = run_cli("bench", *options, expect=exit_code)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


EXPORT = ("export", "--model")
PREDICT = ("predict", "model.onnx", "inputs.npz", "-o", "out.npz")


@pytest.mark.parametrize(
    ("command", "exit_code", "message"),
    [
        ((*EXPORT, "networks_of_mine"), 2, "expected MODULE:FACTORY"),
        ((*EXPORT, "no_such_module:make"), 2, "there is no module no_such_module here"),
        ((*EXPORT, "damaged_module:make"), 2, "damaged_module cannot be imported (No module named 'no_such_library')"),
        ((*EXPORT, "failing_module:make"), 2, "failing_module cannot be imported (ZeroDivisionError"),
        ((*EXPORT, "networks_of_mine:none"), 2, "networks_of_mine has no function none"),
        ((*EXPORT, "networks_of_mine:broken"), 2, "networks_of_mine:broken raises RuntimeError (no weights)"),
        ((*EXPORT, "networks_of_mine:leaves"), 2, "networks_of_mine:leaves raises SystemExit (0)"),
        ((*EXPORT, "leaving_module:make"), 2, "leaving_module cannot be imported (SystemExit: 3)"),
        ((*PREDICT, "--tolerance", "0.1", "--passes", "5"), 2, "--tolerance decides the number of passes; leave out"),
        (("predict", "model.onnx", "nan.npz", "-o", "out.npz"), 3, "input x has 1 values that are not finite"),
        (
            (*EXPORT, "networks_of_mine:wrong"),
            2,
            "networks_of_mine:wrong returns Linear; expected model, example_inputs",
        ),
        ((*EXPORT, "networks_of_mine:plain"), 2, "draws no random numbers"),
        ((*EXPORT, "networks_of_mine:misshaped"), 2, "the model does not run on the example inputs, in 0"),
        ((*EXPORT, "networks_of_mine:specialised"), 2, "the model fixes the size of an axis"),
        ((*EXPORT, "networks_of_mine:make", "--onnx", "drops.onnx"), 2, "leave out one"),
        ((*EXPORT, "networks_of_mine:make", "--all-dropout"), 2, "are options of --onnx FILE"),
        (("export", "--onnx", "none.onnx"), 3, "none.onnx: no such model"),
        (("export", "--onnx", "inputs.npz"), 6, "inputs.npz: is not an ONNX file"),
        (("export", "--onnx", "off.onnx"), 2, "1 Dropout nodes are switched off. Keep them: --all-dropout"),
        (("export", "--onnx", "drops.onnx", "-o", "drops.onnx", "--force"), 2, "is the file itself"),
        (("export", "--onnx", "drops.onnx", "--shape", "x"), 2, "expected NAME=N,N,..."),
        (("export", "--onnx", "drops.onnx", "--shape", "z=1,4"), 2, "--shape names z; the inputs are x"),
        ((*EXPORT, "networks_of_mine:make", "--size", "8x8"), 2, "leave out the run folder and the options of fits"),
        ((*EXPORT, "networks_of_mine:make", "--precision", "fp16"), 2, "leave out --precision"),
        ((*EXPORT, "networks_of_mine:make", "-o", "none/m.onnx"), 2, "the folder"),
        (("export", "--only", "head.*"), 2, "are options of --model"),
        ((*PREDICT, "--stat", "mean,bald"), 2, "--stat has bald; expected some of mean, std, entropy, mi, vr"),
        ((*PREDICT, "--stat", "quantiles"), 2, "go together"),
        ((*PREDICT, "--quantiles", "x"), 2, "--quantiles is 'x'"),
        ((*PREDICT, "--passes", "some"), 2, "--passes is 'some'"),
        ((*PREDICT, "--masks", "balanced"), 2, "masks is 'balanced'"),
        (("predict", "model.onnx", "none.npz", "-o", "out.npz"), 3, "none.npz: no such file"),
        (("predict", "model.onnx", "model.onnx", "-o", "out.npz"), 3, "model.onnx: is no .npz or .npy file"),
        (("predict", "none.onnx", "inputs.npz", "-o", "out.npz"), 3, "none.onnx: no such model"),
        (("predict", "inputs.npz", "inputs.npz", "-o", "out.npz"), 6, "inputs.npz: is not an ONNX file"),
        (("predict", "model.onnx", "wide.npz", "-o", "out.npz"), 3, "input x is float64; expected float32"),
        (("predict", "model.onnx", "short.npz", "-o", "out.npz"), 3, "input x has shape [5, 3]; expected [batch, 4]"),
        (("predict", "drops.onnx", "inputs.npz", "-o", "out.npz"), 6, "drops.onnx: has no live dropout"),
        (("predict", "first.onnx", "inputs.npz", "-o", "out.npz"), 6, "first.onnx: is a denoiser (schema 1)"),
        ((*PREDICT, "--engine", "torch"), 2, "engine is 'torch'; networks with live dropout run in ort, openvino"),
        (("predict", "values.onnx", "inputs.npz", "-o", "out.npz", "--stat", "mi"), 2, "--stat mi needs classes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    folder: Path, command: tuple[str, ...], exit_code: int, message: str
) -> None:
    np.savez("wide.npz", x=X.astype(np.float64))
    np.savez("short.npz", x=X[:, :3])
    np.savez("nan.npz", x=np.where(np.arange(20).reshape(5, 4) == 3, np.float32(np.nan), X))
    write(folder / "first.onnx", Contract(1, (MaskSpec("input_mask", (1, "H", "W"), 200),)))
    write(folder / "values.onnx")
    before = sorted(path for path in folder.iterdir() if path.name != "__pycache__")
    result = run_cli(*command, expect=exit_code)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(path for path in folder.iterdir() if path.name != "__pycache__") == before


def test_help_says_that_code_is_run() -> None:
    text = " ".join(run_cli("export", "--help").stdout.split())
    assert "imports MODULE" in text
    assert "runs its code" in text


@pytest.mark.parametrize(("output", "what"), [("inputs.npz", "input"), ("model.onnx", "model")])
def test_predict_never_replaces_what_it_reads(folder: Path, output: str, what: str) -> None:
    before = (folder / output).read_bytes()
    refused = run_cli("predict", "model.onnx", "inputs.npz", "-o", output, "--force", expect=2)
    assert f"-o {output}: is the {what} itself" in refused.stderr
    assert (folder / output).read_bytes() == before


def test_predict_says_that_values_are_not_finite_and_writes_npz_alone(folder: Path) -> None:
    values = X.copy()
    values[0, 0] = np.inf
    np.savez("infinite.npz", x=values)
    noted = run_cli("predict", "model.onnx", "infinite.npz", "-o", "out.npz", "--passes", "2")
    assert noted.stderr == "note: x: 1 values are NaN or infinite.\n"
    model = graph()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full_like(WEIGHTS, np.nan), "weights"))
    write(folder / "nan.onnx", model=model)
    noted = run_cli("predict", "nan.onnx", "inputs.npz", "-o", "nan_out.npz", "--engine", "auto")
    assert "note: output.mean: 15 values" in noted.stderr
    assert "30 passes" in noted.stdout
    refused = run_cli("predict", "model.onnx", "inputs.npz", "-o", "out.txt", expect=2)
    assert "-o out.txt: expected a name that ends in .npz. Type: -o out.npz" in refused.stderr
    assert not (folder / "out.txt").exists()


def test_predict_wants_two_passes_or_more(folder: Path) -> None:
    refused = run_cli("predict", "model.onnx", "inputs.npz", "-o", "out.npz", "--passes", "0", expect=2)
    assert "passes is 0; expected a number from 2 up" in refused.stderr
    assert not (folder / "out.npz").exists()
