"""The benchmark of quality with a tiny network: its results, and that it continues after an interruption."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import fit_quality, methods, quality_plot, tables
from benchmarks.pairs import Pair
from benchmarks.results_file import ResultsFile, mean_scores
from self2self.imaging.noise import Noise
from self2self.train.fit import FitState
from self2self.train.prediction import predict
from self2self.train.recipes import RECIPES, Recipe
from tests.train.test_fit import TINY

PAIRS = [
    {"name": name, "sample": "page", "noise": "gaussian", "sigma": 25, "top": 30, "left": left, "size": 64}
    for name, left in (("one", 100), ("two", 170))
]


@pytest.fixture(autouse=True)
def tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", TINY)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the export and the engine, which take seconds, by `predict`."""

    def quick(pair: Pair, recipe: Recipe, noise: Noise | None, state: FitState, passes: int) -> dict[str, float]:
        return pair.scores(predict(state.weights(), pair.noisy, recipe, passes=passes))

    monkeypatch.setattr(methods, "run_passes", quick)


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["fit_quality", "pairs.json", *options, "-o", "out.json"])
    fit_quality.main()
    values: dict[str, Any] = json.loads(Path("out.json").read_text())
    return values


def blank(channels: int) -> Pair:
    pixels = np.zeros((channels, 16, 16), np.float32)
    return Pair("blank", pixels, pixels, None)


def row(result: dict[str, Any], image: str, method: str) -> dict[str, Any]:
    (found,) = (r for r in result["rows"] if (r["image"], r["method"]) == (image, method))
    return found


def test_rows_means_and_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, "--recipe", "tiny", "--passes", "4", "--clock", "tiny", "--only", "one")
    fitted = row(result, "one", "tiny")
    assert fitted["steps"] == TINY.steps
    assert fitted["passes"] == 4
    assert fitted["inputs"]["recipe"]["steps"] == TINY.steps
    mean = result["mean"]["tiny"]
    assert mean == {"psnr": fitted["psnr"], "ssim": pytest.approx(fitted["ssim"], abs=1e-3), "images": 1}
    clocked = row(result, "one", "time of tiny")
    assert "psnr" not in clocked
    assert clocked["steps"] == TINY.steps
    assert clocked["fit_seconds"] > 0
    (command,) = result["commands"]
    assert command.startswith("python -m benchmarks.fit_quality pairs.json --recipe tiny")


@pytest.mark.usefixtures("quick_passes")
def test_rows_that_are_there_are_not_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(monkeypatch, "--recipe", "tiny", "--passes", "4", "--only", "one")
    second = run(monkeypatch, "--recipe", "tiny", "--passes", "4")
    assert row(second, "one", "tiny") == row(first, "one", "tiny")
    assert row(second, "two", "tiny")["psnr"] != row(first, "one", "tiny")["psnr"]
    assert len(second["commands"]) == 2
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, learning_rate=1e-5))
    third = run(monkeypatch, "--recipe", "tiny", "--passes", "4")
    assert len(third["rows"]) == len(second["rows"])
    assert row(third, "one", "tiny")["psnr"] != row(second, "one", "tiny")["psnr"]


@pytest.mark.usefixtures("quick_passes")
def test_a_killed_fit_goes_on_from_its_last_look(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--recipe", "tiny", "--passes", "4", "--looks", "3", "--only", "one")
    looked = methods.predict
    looks = 0

    def killed(*args: Any, **more: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt
        return looked(*args, **more)

    monkeypatch.setattr(methods, "predict", killed)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *options)
    stopped = json.loads(Path("out.json").read_text())
    assert row(stopped, "one", "tiny")["unfinished"]
    assert "tiny" not in stopped["mean"]
    assert list(Path("out.states").iterdir())
    looks = 10
    done = row(run(monkeypatch, *options), "one", "tiny")
    assert looks == 11, "only the second look was missing"
    assert [point["step"] for point in done["curve"]] == [2, 4]
    assert done["fit_seconds"] >= done["curve"][-1]["seconds"] >= done["curve"][0]["seconds"]
    assert not list(Path("out.states").iterdir())
    Path("out.json").unlink()
    monkeypatch.setattr(methods, "predict", looked)
    whole = row(run(monkeypatch, *options), "one", "tiny")
    assert (done["psnr"], done["curve"][-1]["psnr"]) == (whole["psnr"], whole["curve"][-1]["psnr"])


def test_other_settings_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--passes", "4")
    with pytest.raises(SystemExit, match="rows of other settings"):
        run(monkeypatch, "--passes", "5")


def test_a_write_that_fails_leaves_the_earlier_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ResultsFile(tmp_path / "r.json", "x", {})
    file.put({"image": "a", "method": "m", "inputs": {}, "psnr": 1.0, "ssim": 0.5})
    with pytest.raises(TypeError):
        file.put({"image": "b", "method": "m", "inputs": {}, "psnr": object(), "ssim": 0.5, "unfinished": True})
    assert [r["image"] for r in ResultsFile(tmp_path / "r.json", "x", {}).rows] == ["a"]


def test_settings_with_a_tuple_are_the_same_when_they_are_read_back(tmp_path: Path) -> None:
    for _ in range(2):
        ResultsFile(tmp_path / "r.json", "x", {"shift": (3, 2)}).put({"image": "a", "method": "m", "inputs": {}})


def test_means_are_of_finished_fits() -> None:
    rows = [
        {"image": "a", "method": "m", "psnr": 20.0, "ssim": 0.4},
        {"image": "b", "method": "m", "psnr": 30.0, "ssim": 0.6},
        {"image": "c", "method": "m", "psnr": 90.0, "ssim": 0.9, "unfinished": True},
        {"image": "a", "method": "time of m", "fit_seconds": 9.0},
    ]
    assert mean_scores(rows) == {"m": {"psnr": 25.0, "ssim": 0.5, "images": 2}}


def test_start_weights_and_their_level_are_part_of_what_a_row_depends_on() -> None:
    def inputs(recipe: Recipe, channels: int = 3, sigma: float = 25.0) -> dict[str, Any]:
        found: dict[str, Any] = methods.recipe_inputs(recipe, blank(channels), Noise(sigma, sigma, sigma, 0.0))[
            "recipe"
        ]
        return found

    fast = RECIPES["fast"]
    starts = [inputs(fast), inputs(fast, channels=1), inputs(fast, sigma=10.0)]
    assert len({found["start_sha256"] for found in starts}) == 3
    assert "start_sha256" not in inputs(methods.named_recipe("fast:scratch"))


def test_rows_of_the_papers_recipe_count_whatever_fast_has_learnt_since() -> None:
    later = {"target", "expects_clipping", "rounds_products", "follows_noise"}
    assert not later & set(methods.recipe_inputs(RECIPES["paper"], blank(3))["recipe"])
    assert later - {"target"} <= set(methods.recipe_inputs(RECIPES["fast"], blank(3))["recipe"])


def test_changes_of_a_recipe() -> None:
    recipe = methods.named_recipe("fast:scratch,steps=7,crop=null")
    assert (recipe.init, recipe.steps, recipe.crop) == ("scratch", 7, None)


ROWS = [
    {"image": "a", "method": "noisy", "psnr": 20.0, "ssim": 0.4},
    {"image": "a", "method": "bm3d, true sigma", "psnr": 29.0, "ssim": 0.8, "seconds": 3.0, "cpu_seconds": 2.5},
    {
        "image": "a",
        "method": "fast",
        "psnr": 30.0,
        "ssim": 0.9,
        "fit_seconds": 40.0,
        "fit_cpu_seconds": 35.0,
        "steps": 150,
        "ensemble_seconds": 8.0,
        "curve": [{"step": 75, "seconds": 20.0, "cpu_seconds": 18.0, "psnr": 28.0}],
    },
    {
        "image": "a",
        "method": "paper",
        "psnr": 25.0,
        "ssim": 0.7,
        "fit_seconds": 90.0,
        "fit_cpu_seconds": 90.0,
        "steps": 100,
        "unfinished": True,
        "curve": [{"step": 100, "seconds": 90.0, "cpu_seconds": 90.0, "psnr": 25.0}],
    },
]


def test_curves_end_with_the_result_unless_the_fit_was_stopped() -> None:
    assert quality_plot.curves(ROWS, "wall") == {
        "bm3d, true sigma": [(3.0, 29.0)],
        "fast": [(20.0, 28.0), (40.0, 30.0)],
        "paper": [(90.0, 25.0)],
    }
    assert quality_plot.curves(ROWS, "cpu")["fast"] == [(18.0, 28.0), (35.0, 30.0)]
    assert quality_plot.curves(ROWS, "wall", "b") == {}


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml")])
def test_plot_can_be_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, start: bytes) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"rows": ROWS}))
    monkeypatch.setattr("sys.argv", ["quality_plot", str(tmp_path / "r.json"), "-o", str(tmp_path / name)])
    quality_plot.main()
    assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(SystemExit, match="no timed rows of z; the results have: a"):
        quality_plot.write_plot([tmp_path / "r.json"], tmp_path / name, image="z")


def test_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"rows": ROWS, "commands": ["python -m this"]}))
    size = {"command": "-", "median_seconds": {"256": 10.0, "1024": 12.5}, "ratio": {"256": 1, "1024": 1.25}}
    (tmp_path / "s.json").write_text(json.dumps(size))
    monkeypatch.setattr("sys.argv", ["tables", str(tmp_path / "r.json"), str(tmp_path / "s.json")])
    tables.main()
    printed = capsys.readouterr().out
    assert "`python -m this`" in printed
    assert "| a | 20.00 | 29.00 | 30.00 | 25.00 (step 100) |" in printed
    assert "| mean | 20.00 | 29.00 | 30.00 |  |" in printed
    assert "| seconds: fit + passes |  | 3.0 | 40 + 8 |  |" in printed
    assert "| 1024x1024 | 12.5 | 1.25 |" in printed
