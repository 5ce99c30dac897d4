"""The command `self2self infer`: choice of model and image, engines, passes, precision and tiles."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from self2self.runtime.engines.registry import get_engine
from tests.commands import ROOT, parse_json, picture, run_cli, write_noisy


def test_infer_asks_for_the_image_of_a_run_that_was_moved(work: Path) -> None:
    (work / "noisy.png").rename(work / "moved.png")
    told = run_cli("infer", "--passes", "1", expect=3).stderr
    run = next(work.glob("runs/*")).relative_to(work).as_posix()
    assert f"noisy.png: does not exist any more, and {run} was fitted to it." in told
    assert f"Name the image: self2self infer {run} IMAGE" in told
    assert run_cli("infer", run, "moved.png", "--passes", "1").stderr == ""


def test_infer_on_another_image_says_so(work: Path) -> None:
    write_noisy(work / "other.png", seed=5)
    result = run_cli("infer", "other.png", "--passes", "1")
    assert "is not the image that" in result.stderr
    assert (work / "other.denoised.png").is_file()
    assert run_cli("infer", "noisy.png", "--passes", "1").stderr == ""


def test_infer_takes_a_model_file_a_run_folder_or_the_latest_run(work: Path) -> None:
    run = next(work.glob("runs/*"))
    shutil.copy(run / "model.onnx", work / "carried.onnx")
    results = []
    for index, model in enumerate((["carried.onnx", "noisy.png"], [str(run)], [str(run), "noisy.png"], [])):
        run_cli("infer", *model, "--passes", "2", "-o", f"{index}.png")
        results.append((work / f"{index}.png").read_bytes())
    assert len(set(results)) == 1


def test_an_image_beyond_the_memory_is_cut_into_tiles(work: Path) -> None:
    write_noisy(work / "large.png", size=(150, 200))
    values = parse_json(run_cli("infer", "large.png", "--passes", "1", "--memory", "10MB", "--json", "--quiet"))
    assert (values["tile"], values["tiles"]) == ([128, 128], 6)
    assert picture(work / "large.denoised.png").shape == (150, 200, 3)
    whole = parse_json(run_cli("infer", "large.png", "--passes", "1", "-o", "whole.png", "--json", "--quiet"))
    assert (whole["tile"], whole["tiles"]) == (None, 1)
    result = run_cli("infer", "large.png", "--memory", "much", expect=2)
    assert "--memory is 'much'; expected a size such as 2GB" in result.stderr


@pytest.mark.parametrize("engine", ["ort", "torch", "mnn", "auto"])
def test_every_engine_here_gives_the_same_image(work: Path, engine: str) -> None:
    # Engines that read masks in another memory order draw other masks, so `auto` is compared with itself there.
    chosen = get_engine(engine)
    reference = chosen.name if chosen.host_channels_last else "ort"
    run_cli("infer", "--passes", "2", "--engine", reference, "-o", "reference.png")
    run_cli("infer", "--passes", "2", "--engine", engine, "-o", f"{engine}.png")
    difference = picture(work / f"{engine}.png").astype(int) - picture(work / "reference.png")
    assert np.abs(difference).max() <= 1


def test_passes_end_by_themselves(work: Path) -> None:
    values = parse_json(run_cli("infer", "--tolerance", "8", "-o", "auto.png", "--json"))
    assert values["standard_error"] <= values["tolerance"] == 8
    assert values["passes"] % 10 == 0
    plain = ["--passes", "3", "--masks", "independent", "--no-flips"]
    values = parse_json(run_cli("infer", *plain, "-o", "plain.png", "--json"))
    assert (values["tolerance"], values["masks"], values["flips"]) == (None, "independent", False)


def test_seed_changes_the_passes_and_batch_does_not(work: Path) -> None:
    for name, extra in {"a": [], "b": ["--batch", "3"], "c": ["--seed", "1"]}.items():
        run_cli("infer", "--passes", "5", "-o", f"{name}.png", *extra)
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()
    assert (work / "a.png").read_bytes() != (work / "c.png").read_bytes()


def test_one_pass_has_no_known_error(work: Path) -> None:
    assert "standard error unknown" in run_cli("infer", "--passes", "1", "--verbose").stdout
    assert parse_json(run_cli("infer", "--passes", "1", "--force", "--json"))["standard_error"] is None


def test_a_fallback_happens_only_where_it_is_allowed(work: Path) -> None:
    from self2self.machine.nvidia import NoGpu, find_gpu

    if not isinstance(find_gpu(), NoGpu):
        pytest.skip("this machine has a GPU, on which trt may work")
    refused = run_cli("infer", "--engine", "trt", "--passes", "2", expect=4)
    assert refused.stderr.startswith("error: engine trt: ")
    assert not Path("noisy.denoised.png").exists()
    result = run_cli("infer", "--engine", "trt", "--passes", "2", "--allow-fallback", "--json")
    values = parse_json(result)
    assert values["engine"] == get_engine("auto").name
    assert values["mask_source"] == "host"
    assert values["fallback"].startswith("engine trt: ")
    assert "Use --engine ort" not in result.stderr
    assert f"Falling back to {values['engine']}, as --allow-fallback says." in result.stderr
    wrong = run_cli("infer", "--mask-source", "device", "--engine", "ort", "--force", expect=2)
    assert "it runs on the CPU" in wrong.stderr


def test_half_precision_from_export_to_infer(work: Path) -> None:
    missing = run_cli("infer", "--precision", "fp16", expect=3)
    assert "has no model.fp16.onnx yet. Make it: self2self export" in missing.stderr
    run_cli("export", "--precision", "int8", expect=2)
    run_cli("export", "--reference", "noisy.png", expect=2)
    # A photograph, because the result for pure noise has so small an error that no loss is small beside it; and no
    # steps, because a few steps make the image and the loss by rounding worse.
    with Image.open(ROOT / "examples" / "noisy.png") as photograph:
        photograph.crop((0, 0, 128, 128)).save("photograph.png")
    run_cli("fit", "photograph.png", "--steps", "0")
    run_cli("export")
    result = run_cli("export", "--precision", "fp16", "--json")
    values = parse_json(result)
    assert values["output"].endswith("model.fp16.onnx")
    assert values["precision"] == "fp16"
    assert 0 < values["compared"]["rms_difference"] < 1
    assert values["compared"]["decibels"] <= 0.02
    assert values["compared"]["against"] == "estimate"
    run_cli("infer", "--precision", "fp16", "--engine", "ort", "--passes", "2", "--json")


def test_a_model_behind_its_image_is_refused_with_the_right_order(work: Path) -> None:
    run = next(work.glob("runs/*")).relative_to(work).as_posix()
    result = run_cli("infer", "noisy.png", run, expect=2)
    assert f"error: {run}: is a model, and the model comes first. Type: self2self infer {run} IMAGE" in result.stderr
