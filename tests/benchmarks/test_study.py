"""The studies: what each part of them computes, and that they go on where they were stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import study
from benchmarks.methods import recipe_for_image, recipe_inputs, seen_by
from benchmarks.pairs import Pair, rms_grey_levels
from benchmarks.rivals import Rival
from benchmarks.studies import components, cost, drop_rates, noises, passes
from benchmarks.studies.study import Job, Settings, Study, new_axes, with_gaussian
from self2self.model.layers import NEGATIVE_SLOPE
from self2self.model.network import GatedConv
from self2self.train.fit import fit, new_state
from self2self.train.recipes import RECIPES

TINY = replace(RECIPES["paper"], steps=2, encoder_width=8, decoder_widths=(8,) * 5)


def nothing(*_: object) -> None:
    pass


@pytest.fixture
def pixels() -> np.ndarray:
    return with_gaussian("chelsea", 64, 25).noisy


# The command.


class Counted:
    """A study of two parts that counts their runs."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.version = 1

    def jobs(self, settings: Settings) -> list[Job]:
        def run(image: str) -> dict[str, dict[str, Any]]:
            self.runs.append(image)
            return {"m": {"psnr": 20.0}, "n": {"psnr": 30.0}}

        return [
            Job(image, ("m", "n"), {"version": self.version}, 90.0, lambda image=image: run(image))  # type: ignore[misc]
            for image in settings.images
        ]

    def study(self) -> Study:
        brief = Settings(("chelsea",), side=64, steps=3, passes=2)
        return Study(
            "components",
            "What is it?",
            brief,
            replace(brief, images=("chelsea", "camera"), steps=30),
            self.jobs,
            lambda rows: new_axes()[0],
            lambda rows: [{"image": "all", "method": "count", "rows": len(rows)}],
        )


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted()
    monkeypatch.setattr(study, "study_called", lambda name: made.study())
    monkeypatch.setattr(study, "use_cores", nothing)
    monkeypatch.chdir(tmp_path)
    return made


def command(monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["study", "components", *options, "-o", "out.json"])
    study.main()
    found: dict[str, Any] = json.loads(Path("out.json").read_text(encoding="utf-8"))
    return found


def test_a_study_goes_on_where_it_was_stopped(
    counted: Counted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch)
    result = command(monkeypatch, "--images", "chelsea", "camera")
    assert counted.runs == ["chelsea", "camera"]
    assert "1 parts, about 2 minutes" in capsys.readouterr().out
    assert [(row["image"], row["method"]) for row in result["rows"] if row["image"] == "camera"] == [
        ("camera", "m"),
        ("camera", "n"),
    ]
    assert next(row["rows"] for row in result["rows"] if row["image"] == "all") == 5
    counted.version = 2
    command(monkeypatch)
    assert counted.runs == ["chelsea", "camera", "chelsea"]


def test_other_settings_do_not_mix(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch)
    with pytest.raises(SystemExit, match="rows of other settings"):
        command(monkeypatch, "--whole")
    with pytest.raises(SystemExit, match="--images nowhere: expected some of: chelsea"):
        command(monkeypatch, "--images", "nowhere")
    with pytest.raises(SystemExit, match="--picture: components has none"):
        command(monkeypatch, "--picture", "a.png")


def test_the_plot_is_written(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch)
    command(monkeypatch, "--images", "camera", "--draw-only", "--plot", "plot.svg")
    assert counted.runs == ["chelsea"]
    assert Path("plot.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize("name", study.NAMES)
def test_every_study_can_be_called_by_its_name(name: str) -> None:
    found = study.study_called(name)
    assert found.name == name
    assert set(found.brief.images) <= set(found.whole.images)
    assert found.whole.side >= found.brief.side


# Components.


def test_the_loop_takes_the_steps_of_the_fit(pixels: np.ndarray) -> None:
    mine = components.fitted(pixels, TINY, True, nothing).weights()
    expected = fit(pixels, TINY, new_state(TINY, 3, 0, torch.device("cpu")), seed=0).weights()
    for name, tensor in expected.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=0)


def test_open_gates_are_plain_convolutions_and_stay_open(pixels: np.ndarray) -> None:
    network = components.fitted(pixels, TINY, False, nothing).network
    block = network.encoder[2]
    assert isinstance(block, GatedConv)
    x = torch.rand(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    weight, bias = block.conv.weight[:8], block.conv.bias[:8]
    plain = F.leaky_relu(F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), weight, bias), NEGATIVE_SLOPE)
    torch.testing.assert_close(block(x), plain)
    assert (block.conv.weight[8:] == 0).all()
    start = new_state(TINY, 3, 0, torch.device("cpu")).network.encoder[2]
    assert isinstance(start, GatedConv)
    assert not torch.equal(weight, start.conv.weight[:8]), "the features have to learn"


def test_without_hidden_pixels_the_network_learns_all_values(pixels: np.ndarray) -> None:
    recipe = replace(TINY, input_drop_rate=0.0, decoder_drop_rate=0.0, steps=1)
    before = new_state(recipe, 3, 0, torch.device("cpu"))
    with torch.no_grad():
        error = (before.network(torch.from_numpy(pixels)[None])[0] - torch.from_numpy(pixels)).abs().mean()
    assert components.fitted(pixels, recipe, True, nothing).loss == pytest.approx(float(error), rel=1e-4)


def test_a_fit_for_two_rows_and_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "paper", TINY)
    settings = Settings(("chelsea",), side=64, steps=5, passes=3, pictures=tmp_path)
    jobs = {job.methods: job for job in components.jobs(settings)}
    rows = {**jobs["noisy",].run(), **jobs["paper", "one pass"].run(), **jobs["L2",].run()}
    assert (rows["paper"]["passes"], rows["one pass"]["passes"]) == (3, 1)
    assert [point["step"] for point in rows["L2"]["curve"]] == [1, 2, 3, 4, 5]
    assert rows["noisy"]["psnr"] == pytest.approx(20.3, abs=0.3)
    components.picture(settings, tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 1000
    shown = components.draw([{"method": name, **row} for name, row in rows.items()])
    assert [line.get_label() for line in shown.axes[0].lines] == ["paper", "L2"]


# Drop rates.


def test_the_best_cell_and_the_automatic_one() -> None:
    rows = [
        {**drop_rates.cell("fast", 25, rate, steps, (rate, steps) == (0.2, 150)), "image": image, "psnr": psnr + add}
        for image, add in (("a", 0.0), ("b", 2.0))
        for rate, steps, psnr in ((0.1, 50, 30.0), (0.2, 150, 30.1), (0.4, 150, 30.4))
    ]
    (found,) = drop_rates.derived(rows)
    assert (found["automatic"], found["best"], found["gap"]) == ("0.2, 150", "0.4, 150", 0.3)
    assert (found["automatic_psnr"], found["best_psnr"]) == (31.1, 31.4)
    (axes,) = drop_rates.draw(rows).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [-0.4])


def test_a_fit_of_the_paper_has_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "paper", TINY)
    settings = Settings(("chelsea",), side=64, steps=4, passes=2)
    rows = drop_rates.run_paper(with_gaussian("chelsea", 64, 25), 0.4, settings)
    assert [(row["steps"], row["automatic"]) for row in rows.values()] == [(1, False), (2, False), (4, True)]
    assert len({row["psnr"] for row in rows.values()}) == 3


def test_one_cell_is_what_the_product_chooses() -> None:
    jobs = list(drop_rates.fast_jobs("chelsea", 64, 25))
    cells = [job.inputs["recipe"] for job in jobs]
    assert len(cells) == len(drop_rates.FAST_RATES) * len(drop_rates.FAST_STEPS)
    seen = seen_by("fast", with_gaussian("chelsea", 64, 25))
    recipe, noise = recipe_for_image("fast", seen.noisy)
    assert recipe_inputs(recipe, seen, noise)["recipe"] in cells


# Kinds of noise.


def made(kind: str, value: float = 0.5) -> np.ndarray:
    clean = np.full((3, 128, 128), value, np.float32)
    return 255 * (noises.KINDS[kind](clean, np.random.default_rng(0)) - clean)


def test_photons_have_their_peak() -> None:
    for peak in noises.PEAKS:
        # Of 0.5 of a peak of P photons the variance is 0.5 / P.
        assert made(f"Poisson, peak {peak}", 0.5).std() == pytest.approx(255 * np.sqrt(0.5 / peak), rel=0.05)


@pytest.mark.parametrize("distance", noises.DISTANCES)
def test_correlation_has_fallen_to_a_half(distance: int) -> None:
    noise = made(f"correlated over {distance} px")
    assert noise.std() == pytest.approx(25, rel=0.02)
    found = np.mean(
        [np.corrcoef(channel[:, distance:].ravel(), channel[:, :-distance].ravel())[0, 1] for channel in noise]
    )
    assert found == pytest.approx(0.5, abs=0.06)


def test_shared_noise_is_equal_in_all_channels() -> None:
    noise = made("shared between channels")
    np.testing.assert_allclose(noise[0], noise[2])
    assert noise.std() == pytest.approx(25, rel=0.02)


def test_rivals_are_told_the_deviation_in_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    def denoise(pair: Pair, sigma: float) -> np.ndarray:
        told.append(sigma)
        return pair.clean

    rivals = {name: Rival(name, "", name != "self2self", denoise) for name in noises.RIVALS}
    monkeypatch.setattr(noises, "make_rivals", lambda anchors: rivals)
    settings = Settings(("chelsea",), side=64, steps=0, passes=0)
    pair = noises.pair_of("chelsea", 64, "multiplicative")
    assert pair.sigma == pytest.approx(rms_grey_levels(pair.noisy - pair.clean), abs=0.01)
    rows = [
        {"image": job.image, "method": name, **row} for job in noises.jobs(settings) for name, row in job.run().items()
    ]
    deviations = [noises.pair_of("chelsea", 64, kind).sigma for kind in noises.KINDS]
    assert told == 3 * deviations
    noisy = {row["kind"]: row["psnr"] for row in rows if row["method"] == "noisy"}
    assert list(noisy) == list(noises.KINDS)
    shown = [{**row, "psnr": noisy[row["kind"]] + (0 if row["method"] == "noisy" else 3)} for row in rows]
    bars = [bar.get_width() for bar in noises.draw(shown).axes[0].patches]
    np.testing.assert_allclose(bars, [3] * 3 * len(noisy))


# Passes.


def test_an_honest_map_is_calibrated_and_a_shrunken_one_is_not() -> None:
    rng = np.random.default_rng(0)
    clean = np.full((3, 100, 100), 0.5, np.float32)
    deviation = rng.uniform(0.01, 0.05, clean.shape).astype(np.float32)
    mean = clean + deviation * rng.standard_normal(clean.shape).astype(np.float32)
    groups = passes.calibration(mean, deviation, clean)
    assert [group["group"] for group in groups] == list(range(1, 11))
    assert groups[0]["predicted"] == pytest.approx(255 * 0.012, rel=0.02)
    np.testing.assert_allclose([group["ratio"] for group in groups], 1, atol=0.06)
    shrunken = passes.calibration(mean, deviation / 4, clean)
    np.testing.assert_allclose([group["ratio"] for group in shrunken], 4, atol=0.24)


def test_all_ways_of_a_tiny_network_have_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(("chelsea",), side=64, steps=0, passes=20)
    pair = with_gaussian("chelsea", 64, 25)
    chosen: Callable[..., Any] = lambda *_: (TINY, None)  # noqa: E731
    monkeypatch.setattr(passes, "recipe_for_image", chosen)
    monkeypatch.setattr(passes, "pass_plan_for", lambda name: passes.PassPlan(20, None, balanced=True, flips=True))
    (job,) = passes.jobs(settings)
    rows = passes.run(pair, TINY, None, settings)
    assert set(rows) == set(job.methods)
    assert rows["independent, 20 passes"]["standard_error"] < rows["independent, 10 passes"]["standard_error"]
    assert rows["auto"]["passes"] == 20
    figure = passes.draw([{"image": "a", **row} for row in rows.values()])
    assert len(figure.axes[0].lines) == len(passes.ways(20))


# Cost.


def test_small_samples_are_mirrored_to_large_images() -> None:
    small, large = cost.image_of("astronaut", 64), cost.image_of("astronaut", 1024)
    assert (small.clean.shape, large.clean.shape) == ((3, 64, 64), (3, 1024, 1024))
    np.testing.assert_array_equal(large.clean[:, 256:768, 200], large.clean[:, 256:768, 311])
    np.testing.assert_array_equal(small.clean, large.clean[:, 480:544, 480:544])


def test_sizes_double() -> None:
    assert cost.sides(Settings((), side=600, steps=0, passes=0)) == [64, 128, 256, 512]


def test_a_method_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    # A smaller image may take less memory than the imports before it.
    row = cost.run("astronaut", 512, "nlm", tmp_path)["nlm"]
    assert row["psnr"] > 24
    assert (row["side"], row["name"]) == (512, "nlm")
    assert row["peak_megabytes"] > 0
    assert len(cost.draw([row, {**row, "side": 1024}]).axes) == 3


def test_a_method_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ffdnet has failed on 64x64 pixels"):
        cost.run("astronaut", 64, "ffdnet", tmp_path)
