"""The command `self2self denoise`: one image, and an existing fit that is finished, interrupted or damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from self2self.runtime.engines.registry import get_engine
from self2self.runtime.model import load_model
from self2self.train.checkpoint import load_weights
from self2self.train.run_folder import Run
from tests.commands import FAST, ctrl_c, parse_json, picture, run_cli, unfinish, write_noisy


def test_denoise_runs_all_steps_and_prints_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "image.png")
    result = run_cli("denoise", "image.png", *FAST, "--passes", "3", "--uncertainty", "std.tif", "--json")
    values = parse_json(result)
    assert values["output"] == "image.denoised.png"
    assert (values["passes"], values["steps"], values["seed"], values["recipe"]) == (3, 2, 0, "fast")
    # `auto` chooses the fastest engine of this machine.
    providers = {
        "mnn": "MNN CPU",
        "torch-amx": "PyTorch CPU in bfloat16",
        "torch-int8": "PyTorch CPU in 8-bit integers",
    }
    assert values["engine"] == get_engine("auto").name
    assert values["provider"] == providers[values["engine"]]
    assert set(values["seconds"]) == {"fit", "export", "calibrate", "prepare", "masks", "passes", "reduce", "total"}
    parts = sum(seconds for name, seconds in values["seconds"].items() if name != "total")
    assert parts <= values["seconds"]["total"] + 0.1
    assert values["loss"] > 0
    assert values["standard_error"] > 0
    assert values["passes_per_second"] > 0
    assert (values["tolerance"], values["masks"], values["flips"]) == (None, "balanced", True)
    assert values["peak_memory_bytes"] > 50e6
    assert result.stderr == ""
    assert (tmp_path / "std.tif").is_file()


def test_a_dark_image_is_brought_to_the_range_and_the_recipe_of_the_paper_sees_it_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).integers(10, 31, (64, 64), np.uint8)
    Image.fromarray(values).save("dark.png")
    done = run_cli("denoise", "dark.png", *FAST, "--passes", "2")
    assert "; 255 grey levels are from 10 to 30\n" in done.stdout
    assert 10 <= picture(Path("dark.denoised.png")).min() <= picture(Path("dark.denoised.png")).max() <= 30
    (run,) = map(Run, Path("runs").glob("dark-*"))
    assert load_model(run.onnx_path).contract.image_range == (10, 30)
    assert parse_json(run_cli("denoise", "dark.png", *FAST, "--passes", "2", "--json", "--force"))["range"] == [10, 30]
    options = ("--recipe", "paper", "--steps", "1", "-o", "paper")
    assert "255 grey levels" not in run_cli("fit", "dark.png", *options).stdout
    assert Run(Path("paper")).config().image_range == (0, 255)
    run_cli("export", "paper")
    values_of = parse_json(run_cli("infer", "paper", "dark.png", "-o", "p.png", "--passes", "1", "--json"))
    assert values_of["range"] == [0, 255]


def test_a_run_without_a_range_was_fitted_in_the_whole_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(10, 31, (64, 64), np.uint8)).save("dark.png")
    options = ("--steps", "1", "--passes", "1", "--drop-rate", "0.2", "--run", "run")
    run_cli("denoise", "dark.png", *options)
    path = Run(Path("run")).config_path
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in values.items() if not key.endswith("_range")}))
    told = run_cli("denoise", "dark.png", *options, "-o", "again.png", expect=2).stderr
    assert "holds a fit with other settings (range from black to white, asked for its own)" in told


def test_a_dark_image_with_correlated_noise_keeps_its_range_from_black_to_white(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.ndimage import gaussian_filter

    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(0, 8, (3, 64, 64, 3))
    pages = np.clip(40 + gaussian_filter(noise, (0, 1, 1, 0)), 0, 255).round().astype(np.uint8)
    Image.fromarray(pages[0]).save("dark.png")
    tifffile.imwrite("dark.tif", pages, photometric="rgb")
    options = ("--steps", "1", "--passes", "1", "--json", "--run")
    values = parse_json(run_cli("denoise", "dark.png", *options, "one"))
    assert (values["noise"]["correlated"], values["range"]) == (True, [0, 255])
    # The range is the same for other images: with a model, and as pages.
    assert load_model(Run(Path("one")).onnx_path).contract.whole_range
    Image.fromarray(pages[1]).save("next.png")
    assert parse_json(run_cli("infer", "one", "next.png", "--passes", "1", "--json"))["range"] == [0, 255]
    for way in ("first", "each"):
        values = parse_json(run_cli("denoise", "dark.tif", *options, way, "--fit-pages", way, "-o", f"{way}.tif"))
        assert [page["range"] for page in values["pages"]] == 3 * [[0, 255]]


def test_16_bit_grey_tiff_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tifffile

    monkeypatch.chdir(tmp_path)
    counts = np.random.default_rng(0).poisson(300, (64, 64)).astype(np.uint16)
    tifffile.imwrite("cells.tif", counts)
    run_cli("denoise", "cells.tif", *FAST, "--passes", "2")
    clean = tifffile.imread("cells.denoised.tif")
    assert (clean.dtype, clean.shape) == (np.uint16, counts.shape)
    assert abs(float(clean.mean()) - 300) < 60


def test_denoise_again_uses_the_finished_fit_and_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "image.png")
    run_cli("denoise", "image.png", *FAST, "--passes", "3")
    first = (tmp_path / "image.denoised.png").read_bytes()
    again = run_cli("denoise", "image.png", *FAST, "--passes", "3", "--batch", "2", "--force")
    assert "using the finished fit" in again.stderr
    assert (tmp_path / "image.denoised.png").read_bytes() == first


def test_denoise_replaces_a_fit_with_other_settings_only_by_force(work: Path) -> None:
    model = next(work.glob("runs/*/model.safetensors"))
    before = model.read_bytes()
    run = ("--run", str(model.parent))
    result = run_cli("denoise", "noisy.png", "--steps", "3", "--passes", "1", *run, expect=2)
    assert "holds a fit with other settings (steps 2, asked for 3)" in result.stderr
    assert "Keep it and choose another run folder (--run RUN), or start anew with --force" in result.stderr
    assert model.read_bytes() == before
    result = run_cli("denoise", "noisy.png", "--steps", "3", "--passes", "1", *run, "--force")
    assert f"note: replacing the fit in {model.parent} (steps 2, asked for 3)" in result.stderr
    assert Run(model.parent).config().recipe.steps == 3
    assert load_weights(model)[2].steps == 3


def test_without_a_named_folder_fits_with_other_settings_stand_side_by_side(work: Path) -> None:
    model = next(work.glob("runs/*/model.safetensors"))
    before = model.read_bytes()
    run_cli("denoise", "noisy.png", "--sigma", "20", "--steps", "3", "--passes", "1", "-o", "other.png")
    assert model.read_bytes() == before
    command = ("denoise", "noisy.png", "--passes", "1", "--force")
    assert "using the finished fit" in run_cli(*command, *FAST).stderr
    told = run_cli(*command, "--sigma", "20", "--steps", "3", "--strength", "0.5", "-o", "weaker.png").stderr
    assert "using the finished fit" in told, "strength up to 1 needs no fit of its own"


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
def test_denoise_fits_anew_where_a_run_is_damaged_but_only_by_force(work: Path, name: str) -> None:
    run = Run(unfinish(work) if name == "state.safetensors" else next(work.glob("runs/*")))
    damaged = run.folder / name
    damaged.write_bytes(damaged.read_bytes()[:100])
    command = ("denoise", "noisy.png", *FAST, "--passes", "1")
    refused = run_cli(*command, expect=6)
    assert f"{name}: is damaged" in refused.stderr
    assert "--force" in refused.stderr
    again = run_cli(*command, "--force")
    assert "note: fitting anew: " in again.stderr
    assert run.is_fitted()
    assert picture(work / "noisy.denoised.png").shape == (64, 70, 3)


def test_denoise_exports_a_damaged_model_again(work: Path) -> None:
    model = next(work.glob("runs/*/model.onnx"))
    model.write_bytes(model.read_bytes()[:1000])
    assert "note: exporting again: " in run_cli("denoise", "noisy.png", *FAST, "--passes", "1").stderr
    assert picture(work / "noisy.denoised.png").shape == (64, 70, 3)


def test_the_message_of_an_interrupted_denoise_names_no_option_that_it_lacks(work: Path) -> None:
    command = ("denoise", "noisy.png", "--steps", "3", "--passes", "1", "--run", "runs/cut")
    with ctrl_c():
        told = run_cli(*command, expect=130).stderr
        assert "interrupted after step 1 of 3; it is saved in runs/cut. The same command goes on." in told
        told = run_cli("fit", "noisy.png", "--steps", "3", "-o", "runs/fit", expect=130).stderr
        assert "The same command goes on." in told
    assert "continuing the interrupted fit" in run_cli(*command).stderr


def test_denoise_continues_an_interrupted_fit(work: Path) -> None:
    unfinish(work)
    result = run_cli("denoise", "noisy.png", *FAST, "--passes", "1")
    assert "continuing the interrupted fit" in result.stderr


def test_another_strength_needs_no_other_fit(work: Path) -> None:
    model = next(work.glob("runs/*/model.safetensors"))
    noisy, weights = picture(work / "noisy.png").astype(float), load_weights(model)[0]
    results = {}
    for strength in ("1", "0.5", "0"):
        output = work / f"{strength}.png"
        options = (*FAST, "--passes", "2", "--strength", strength, "-o", output.name)
        assert "using the finished fit" in run_cli("denoise", "noisy.png", *options).stderr
        results[strength] = picture(output).astype(float)
    assert np.array_equal(results["0"], noisy)
    # Half of what was removed is back, to the rounding of two files.
    assert np.abs(results["0.5"] - (results["1"] + noisy) / 2).max() <= 1
    assert all(np.array_equal(tensor, weights[name]) for name, tensor in load_weights(model)[0].items())
    stronger = ("--strength", "1.5", "-o", "smooth.png", "--run", str(model.parent))
    told = run_cli("denoise", "noisy.png", *FAST, *stronger, expect=2).stderr
    assert "strength 0, asked for 1.5" in told


def test_after_an_interrupt_in_the_passes_denoise_says_that_the_fit_is_kept(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from self2self.jobs import infer

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(infer, "run_passes", interrupted)
    told = run_cli("denoise", "noisy.png", *FAST, "--passes", "1", expect=130).stderr
    run = next(work.glob("runs/*")).relative_to(work).as_posix()
    assert f"error: interrupted; the fit is kept in {run}. The same command goes on." in told


def test_stars_stay_and_hot_pixels_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stars and hot pixels are far brighter than the rest of the image; only stars are real."""
    import tifffile

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :96]
    sky = 400 + 200 * np.sin(rows / 17) * np.cos(columns / 23)
    star = 30_000 * np.exp(-((rows - 30) ** 2 + (columns - 60) ** 2) / (2 * 1.5**2))
    stored = rng.poisson(sky + star)
    hot = ([70, 20, 50], [25, 12, 80])
    stored[hot] = 50_000
    tifffile.imwrite("sky.tif", stored.astype(np.uint16))
    run_cli("denoise", "sky.tif", *FAST, "--passes", "10")
    clean = tifffile.imread("sky.denoised.tif").astype(float)
    around = np.s_[24:37, 54:67]
    assert clean[around].sum() == pytest.approx((sky + star)[around].sum(), rel=0.02)
    assert clean[30, 60] == pytest.approx(star[30, 60] + sky[30, 60], rel=0.02)
    assert clean[hot].max() < 2 * sky.max()
    background = np.ones_like(sky, bool)
    background[around] = False
    background[hot] = False
    error, noise = (np.abs(values - sky)[background] for values in (clean, stored))
    assert np.median(error) < 0.9 * np.median(noise)
    assert abs((clean - sky)[background].mean()) < 2
