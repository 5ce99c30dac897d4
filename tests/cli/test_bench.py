"""The command `self2self bench`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from self2self.bench import measure
from self2self.model.network import Self2SelfNet
from self2self.runtime.engines.registry import engine_statuses
from self2self.train.recipes import RECIPES
from tests.commands import parse_json, run_cli
from tests.interrupted import interrupt

QUICK = ["--rounds", "1", "--passes", "1", "--batch", "1", "--no-memory", "--engine", "ort"]
SPREAD = {"median", "p10", "p90", "min", "max"}
CASE = {
    "engine",
    "provider",
    "precision",
    "batch",
    "height",
    "width",
    "passes_per_round",
    "seconds_per_pass",
    "passes_per_second",
    "megapixel_passes_per_second",
    "parts_seconds_per_pass",
    "prepare_seconds",
    "memory",
    "share_of_matrix_product",
    "ratio_to_plain",
}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the pauses between cases.

    Engines have one thread (conftest), because with more, a pass of so small a network takes seconds.
    """
    monkeypatch.setattr(measure, "IDLE_SECONDS", 0.0)


def write_clean(path: Path) -> str:
    """Write the image under the noise of `write_noisy`; the mean approaches it with every pass."""
    Image.fromarray(np.full((64, 70, 3), 120, np.uint8)).save(path)
    return str(path)


def check_case(case: dict[str, Any]) -> None:
    assert set(case) == CASE
    for key in ("seconds_per_pass", "passes_per_second", "megapixel_passes_per_second", "ratio_to_plain"):
        spread = case[key]
        assert set(spread) == SPREAD
        assert 0 < spread["min"] <= spread["p10"] <= spread["median"] <= spread["p90"] <= spread["max"]
    assert case["seconds_per_pass"]["min"] == pytest.approx(1 / case["passes_per_second"]["max"])
    assert case["share_of_matrix_product"] > 0


def test_help_names_every_option() -> None:
    shown = run_cli("bench", "--help").stdout
    options = "--output --html --against --size --batch --engine --rounds --passes --recipe --curve --reference"
    for option in (*options.split(), "--curve-of", "--no-memory", "--force", "--json", "--quiet"):
        assert option in shown


def test_every_engine_at_every_size_and_batch(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--size", "64", "--size", "64x96", "--batch", "2", "--batch", "1", "--rounds", "2", "--passes", "2"]
    result = run_cli("bench", str(tiny_onnx), *arguments, "--no-memory", "--json", "-o", "bench.json")
    values = parse_json(result)
    assert values == json.loads(Path("bench.json").read_text())
    assert result.stderr == ""
    assert str(tiny_onnx.parent) not in json.dumps(values["model"])
    working = [status.name for status in engine_statuses() if status.works]
    assert list(values["engines"]) == working
    assert set(values["unavailable"]).isdisjoint(working)
    assert [(size["height"], size["width"]) for size in values["sizes"]] == [(64, 64), (64, 96)]
    expected = [
        (name, batch, 64, width)
        for width in (64, 96)
        for name, batch in [("plain", 1), *((name, batch) for name in working for batch in (1, 2))]
    ]
    assert [(c["engine"], c["batch"], c["height"], c["width"]) for c in values["cases"]] == expected
    for case in values["cases"]:
        check_case(case)
        assert case["memory"] is None
        if case["engine"] == "plain":
            assert set(case["ratio_to_plain"].values()) == {1.0}
        else:
            parts = case["parts_seconds_per_pass"]
            assert sum(part["min"] for part in parts.values()) <= case["seconds_per_pass"]["max"]
            assert parts["copies"]["median"] > 0 or case["engine"] in ("ort", "openvino")
            assert case["prepare_seconds"] > 0
    assert values["convergence"] is None
    assert (values["rounds"], values["model"]["channels"], values["model"]["precision"]) == (2, 3, "fp32")


def test_a_run_with_memory_curve_page_and_comparison(work: Path) -> None:
    run = str(next(work.glob("runs/*")))
    common = ["bench", run, "--engine", "ort", "--batch", "1", "--rounds", "1", "--passes", "1", "--curve", "3"]
    reference = write_clean(work / "clean.png")
    shown = run_cli(*common, "-o", "old.json", "--html", "page.html", "--reference", reference).stdout
    values = json.loads((work / "old.json").read_text())
    # The image has 64x70 pixels.
    assert [(case["engine"], case["width"]) for case in values["cases"]] == [("plain", 96), ("ort", 96)]
    assert values["cases"][0]["memory"]["peak_bytes"] > values["cases"][1]["memory"]["peak_bytes"] > 50e6
    assert values["convergence"]["passes"] == [1, 2, 3]
    assert values["convergence"]["psnr"][0] < values["convergence"]["psnr"][2]
    assert values["convergence"]["distance_grey_levels"][0] > values["convergence"]["distance_grey_levels"][1]
    assert (work / "page.html").read_text().count("<svg") == 5
    assert "64x96: " in shown
    assert "PSNR (dB)" in shown
    for case in values["cases"]:
        case["ratio_to_plain"] = dict.fromkeys(SPREAD, 1000.0)
    (work / "old.json").write_text(json.dumps(values))
    compared = run_cli(*common, "--no-memory", "--against", "old.json", "--json")
    found = parse_json(compared)["against"]
    assert found["file"] == "old.json"
    assert [case["engine"] for case in found["regressions"]] == ["ort"]
    assert found["differences"] == []


def test_the_curve_of_a_run_beside_another_network(work: Path, tiny_onnx: Path) -> None:
    run = next(work.glob("runs/*"))
    reference = write_clean(work / "clean.png")
    arguments = ["--size", "64", "--curve-of", str(run), "--reference", reference, "--curve", "2", *QUICK]
    values = parse_json(run_cli("bench", str(tiny_onnx), *arguments, "--html", "page.html", "--json"))
    assert values["model"]["source"] == tiny_onnx.name
    assert [case["width"] for case in values["cases"]] == [64, 64]
    curve = values["convergence"]
    assert (curve["height"], curve["width"], curve["passes"]) == (64, 70, [1, 2])
    assert curve["psnr"][0] < curve["psnr"][1]
    assert "PSNR against passes" in Path("page.html").read_text()
    (run / "model.onnx").unlink()
    assert "self2self export" in run_cli("bench", str(tiny_onnx), *arguments, expect=3).stderr


def test_without_a_model_the_recipes_network_has_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's recipe gets a narrow network here, because its own takes ten seconds to export."""
    narrow = replace(RECIPES["paper"], encoder_width=4, decoder_widths=(6, 6, 6, 4, 4))
    monkeypatch.setitem(RECIPES, "paper", narrow)
    values = parse_json(run_cli("bench", "--size", "64", *QUICK, "--json"))
    assert values["model"] == {
        "source": "random weights",
        "recipe": "paper",
        "precision": "fp32",
        "channels": 3,
        "encoder_width": 4,
        "decoder_widths": [6, 6, 6, 4, 4],
        "parameters": sum(weight.numel() for weight in Self2SelfNet(3, 4, (6, 6, 6, 4, 4)).parameters()),
    }
    check_case(values["cases"][1])


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--rounds", "0"], 2, "--rounds is 0; expected at least 1"),
        (["--passes", "0"], 2, "--passes is 0; expected at least 1"),
        (["--batch", "0"], 2, "--batch is 0; expected at least 1"),
        (["--curve", "-1"], 2, "--curve is -1; expected at least 0"),
        (["--size", "big"], 2, "--size is 'big'; expected a side or HEIGHTxWIDTH"),
        (["--size", "100"], 2, "for example --size 128x128"),
        (["--size", "32x64"], 2, "--size is 32x64; expected multiples of 32 from 64 up"),
        (["--engine", "steam"], 2, "--engine is 'steam'; expected one of"),
        (["--engine", "trt"], 4, "engine trt"),
        (["--recipe", "best"], 2, "expected one of: fast, paper"),
        (["--reference", "noisy.png"], 2, "--reference works with a run folder"),
        (["--curve-of", "empty"], 3, "is not a run folder"),
        (["--curve-of", "taken.json"], 2, "--curve-of taken.json: is no run folder"),
        (["-o", "taken.json"], 2, "-o taken.json: exists already"),
        (["--html", "taken.json"], 2, "--html taken.json: exists already"),
        (["-o", "nowhere/out.json"], 2, "nowhere does not exist. Create it with mkdir -p"),
        (["--html", "."], 2, "is a folder"),
        (["-o", "same", "--html", "same"], 2, "are both same"),
        (["--against", "missing.json"], 3, "--against missing.json: cannot be read"),
        (["--against", "taken.json"], 6, "is not JSON"),
        (["missing.onnx"], 3, "no such model"),
        (["taken.json"], 6, "is not an ONNX file"),
        (["empty"], 3, "is not a run folder"),
    ],
)
def test_refusals(arguments: list[str], code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.json").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    error = run_cli("bench", *arguments, expect=code).stderr
    assert text in error, error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "taken.json").read_text() == "mine"


def test_reference_of_another_size_and_run_without_a_model(work: Path) -> None:
    from PIL import Image

    run = next(work.glob("runs/*"))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("small.png")
    error = run_cli("bench", str(run), "--reference", "small.png", *QUICK, expect=3).stderr
    assert "small.png: is 64x64 with 3 channels; expected 64x70 with 3 channels, as the image itself." in error
    (run / "model.onnx").unlink()
    assert "self2self export" in run_cli("bench", str(run), *QUICK, expect=3).stderr


def test_a_page_without_matplotlib_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = run_cli("bench", "--html", "page.html", expect=4).stderr
    assert "matplotlib is not installed" in error
    assert "pip install 'self2self[report]'" in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_replaced_with_force(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.json").write_text("mine")
    result = run_cli("bench", str(tiny_onnx), "--size", "64", *QUICK, "-o", "out.json", "--force", "--quiet")
    assert (result.stdout, result.stderr) == ("", "")
    assert json.loads((tmp_path / "out.json").read_text())["benchmark"] == "self2self bench"


def test_ctrl_c_writes_nothing(tiny_onnx: Path, tmp_path: Path) -> None:
    arguments = ("bench", str(tiny_onnx), "--size", "64", "--rounds", "100000", "-o", "out.json")
    # An earlier interrupt would hit the imports, where the command ends without a message.
    code, error = interrupt(*arguments, folder=tmp_path, after_seconds=10)
    assert code == 130, error
    assert error == "error: interrupted; nothing was written.\n"
    assert list(tmp_path.iterdir()) == []
