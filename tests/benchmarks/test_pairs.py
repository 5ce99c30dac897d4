"""Lists of pairs: sources and crops of the images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import make_pairs, methods
from benchmarks.pairs import load_pair, load_pairs, sample
from self2self.image_io import read_image
from self2self.imaging.metrics import from_black_to_white
from self2self.train.recipes import RECIPES

LISTS = Path(__file__).parents[2] / "benchmarks" / "lists"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_files_are_cut_alike(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    save(tmp_path / "noisy.png", pixels)
    save(tmp_path / "clean.png", 255 - pixels)
    entry = {"name": "a", "noisy": "noisy.png", "clean": "clean.png", "top": 3, "left": 5, "size": 8}
    pair = load_pair(entry, tmp_path)
    expected = pixels[3:11, 5:13].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(pair.noisy, expected, atol=1e-6)
    np.testing.assert_allclose(pair.clean, 1 - expected, atol=1e-6)
    assert pair.sigma is None


def test_a_dark_image_is_seen_as_the_product_sees_it_and_scored_by_black_and_white(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clean = np.tile(np.arange(10, 50, dtype=np.uint8), (40, 1))
    noisy = (clean + rng.integers(-5, 6, clean.shape)).astype(np.uint8)
    save(tmp_path / "noisy.png", noisy)
    save(tmp_path / "clean.png", clean)
    pair = load_pair({"name": "a", "noisy": "noisy.png", "clean": "clean.png"}, tmp_path)
    seen = methods.seen_by("fast", pair)
    np.testing.assert_array_equal(seen.noisy, read_image(tmp_path / "noisy.png").pixels)
    assert methods.seen_by("paper,steps=3", pair) is pair
    assert seen.scores(seen.noisy) == pair.scores(pair.noisy)
    mean_square = np.mean((noisy - clean.astype(float)) ** 2)
    assert pair.scores(pair.noisy)["psnr"] == pytest.approx(10 * np.log10(255**2 / mean_square), abs=1e-3)
    fast = RECIPES["fast"]
    assert methods.recipe_inputs(fast, seen) == {
        **methods.recipe_inputs(fast, pair),
        "range": [pytest.approx(noisy.min() / 255, abs=1e-5), pytest.approx(noisy.max() / 255, abs=1e-5)],
    }


def test_scores_are_those_of_black_to_white(tmp_path: Path) -> None:
    clean = np.tile(np.linspace(0.1, 0.3, 32, dtype=np.float32), (32, 1))[None]
    ends = (-0.25, 1.5)
    stretched = clean * (ends[1] - ends[0]) + ends[0]
    np.testing.assert_allclose(from_black_to_white(stretched, ends), clean, atol=1e-6)


def test_12_bits_in_16_have_one_scale_for_both(tmp_path: Path) -> None:
    clean = np.tile(np.arange(1000, 1040, dtype=np.uint16) * 2, (40, 1))
    for name, values in (("noisy", clean + 100), ("clean", clean)):
        save(tmp_path / f"{name}.png", values.astype(np.uint16))
    pair = load_pair({"name": "a", "noisy": "noisy.png", "clean": "clean.png"}, tmp_path)
    np.testing.assert_allclose(65535 * (pair.noisy - pair.clean), 100, rtol=1e-3)
    seen = pair.in_range()
    assert (seen.noisy.min(), seen.noisy.max()) == (0, 1)
    np.testing.assert_allclose(seen.noisy - seen.clean, 100 / 78, rtol=1e-3)


def test_noise_is_made_on_a_sample_and_only_gaussian_noise_has_a_sigma() -> None:
    entry = {"name": "p", "sample": "page", "noise": "gaussian", "sigma": 25, "top": 30, "left": 100, "size": 64}
    pair = load_pair(entry, Path())
    assert pair.clean.shape == (1, 64, 64)
    assert 20 < 255 * np.std(pair.noisy - pair.clean) < 26
    assert pair.sigma == 25
    np.testing.assert_array_equal(pair.noisy, load_pair(entry, Path()).noisy)
    assert load_pair({**entry, "noise": "poisson"}, Path()).sigma is None


@pytest.mark.parametrize("name", ["unlike", "noises", "weak", "shared"])
def test_lists_of_the_repository_load(name: str) -> None:
    entries = json.loads((LISTS / f"{name}.json").read_text())
    pairs = load_pairs(LISTS / f"{name}.json")
    assert [pair.name for pair in pairs] == [entry["name"] for entry in entries]
    assert len({pair.name for pair in pairs}) == len(pairs)
    assert all(pair.noisy.shape == pair.clean.shape == (pair.clean.shape[0], 128, 128) for pair in pairs)
    assert all(pair.clean.std() > 0.01 for pair in pairs)


def test_blurred_noise_is_as_strong_as_the_list_says_and_shared_by_neighbours() -> None:
    entry = {"name": "moon", "sample": "moon", "blur": 0.5, "sigma": 10, "top": 100, "left": 100, "size": 128}
    pair = load_pair(entry, Path("nowhere"))
    noise = 255 * (pair.noisy - pair.clean)
    assert abs(float(noise.std()) - 10) < 0.1
    assert 0.2 < np.mean(noise[:, 1:] * noise[:, :-1]) / 100 < 0.3
    assert (pair.sigma, float(pair.noisy.min()) >= 0) == (10, True)
    np.testing.assert_allclose(255 * pair.noisy, np.rint(255 * pair.noisy), atol=1e-4)


def test_some_of_a_list_and_a_name_that_it_lacks() -> None:
    (pair,) = load_pairs(LISTS / "unlike.json", "page poisson 25")
    assert pair.name == "page poisson 25"
    with pytest.raises(SystemExit, match="--only names nobody; "):
        load_pairs(LISTS / "unlike.json", "nobody")


def test_samples_have_channels_first_and_no_alpha() -> None:
    assert sample("camera").shape == (1, 512, 512)
    assert sample("logo").shape == (3, 500, 500)


def test_lists_are_made_from_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tmp_path / "data", tmp_path / "elsewhere"
    out.mkdir()
    crops = {"crops": [{"name": "church", "image": "0020.png", "top": 10, "left": 40}]}
    data.mkdir()
    (data / "crops.json").write_text(json.dumps(crops))
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    for folder in ("clean", "noise15", "noise25", "noise50"):
        save(data / "cbsd68" / folder / "0020.png", pixels)
    for folder in ("noisy", "mean"):
        save(data / "polyu" / folder / "Camera_5_160_3200_chair_11.png", pixels)
    grey = np.random.default_rng(1).integers(0, 256, (512, 512), np.uint8)
    for folder in ("raw", "gt"):
        for frame in (1, 2):
            save(data / "fmd" / folder / f"Confocal_FISH_{frame}.png", grey // frame)
    monkeypatch.setattr("sys.argv", ["make_pairs", str(data), "-o", str(out)])
    make_pairs.main()
    assert {path.name for path in out.iterdir()} == {
        *(f"cbsd68-{kind}crops-sigma{sigma}.json" for sigma in (15, 25, 50) for kind in ("", "green-")),
        "fmd-crops.json",
        "polyu-crops.json",
        "polyu-small-crops.json",
    }
    assert str(tmp_path) not in "".join(path.read_text() for path in out.iterdir())
    (church,) = load_pairs(out / "cbsd68-crops-sigma50.json")
    np.testing.assert_allclose(church.clean[:, 0, 0], pixels[10, 40] / 255, atol=1e-6)
    assert (church.name, church.sigma, church.noisy.shape) == ("church", 50, (3, 128, 128))
    (chair,) = load_pairs(out / "polyu-crops.json")
    assert (chair.name, chair.sigma, chair.noisy.shape) == ("chair", None, (3, 256, 256))
    (small,) = load_pairs(out / "polyu-small-crops.json")
    np.testing.assert_array_equal(small.noisy, chair.noisy[:, 64:192, 64:192])
    (green,) = load_pairs(out / "cbsd68-green-crops-sigma50.json")
    np.testing.assert_array_equal(green.noisy, church.noisy[1:2])
    np.testing.assert_array_equal(green.clean, church.clean[1:2])
    (fish,) = load_pairs(out / "fmd-crops.json")
    assert (fish.name, fish.sigma, fish.photons) == ("Confocal FISH", None, True)
    np.testing.assert_allclose(fish.noisy[0], grey[128:384, 128:384] / 255, atol=1e-6)
    assert not chair.photons


def test_without_micrographs_there_is_no_list_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crops.json").write_text(json.dumps({"crops": []}))
    (tmp_path / "polyu" / "noisy").mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["make_pairs", str(tmp_path), "-o", str(tmp_path / "polyu")])
    make_pairs.main()
    assert not (tmp_path / "polyu" / "fmd-crops.json").exists()
