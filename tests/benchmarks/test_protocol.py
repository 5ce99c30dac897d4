"""Published protocols: the images that they have, results that go on where they were stopped, and the Pareto front."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import pareto, protocol
from benchmarks.pairs import Pair
from benchmarks.protocols import PROTOCOLS, middle, with_noise
from benchmarks.rivals import Rival
from benchmarks.scores import gmsd, scores, ssim
from benchmarks.sets import load_sets

SIDE = 24


def save(path: Path, seed: int, channels: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE + 2, 3), np.uint8)
    Image.fromarray(values if channels == 3 else values[..., 0]).save(path)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    for seed, name in enumerate(("0005", "0008")):
        save(folder / "cbsd68" / "clean" / f"{name}.png", seed)
        save(folder / "cbsd68" / "noise25" / f"{name}.png", seed + 10)
    save(folder / "cbsd68" / "clean" / "0001.png", 20)
    for split in ("tuning", "validation"):
        for end in ("noisy", "clean"):
            save(folder / "sidd" / split / f"2_14.{end}.png", 30)
    for end in ("noisy", "mean"):
        save(folder / "fmd" / f"Confocal_FISH_1.{end}.png", 40, 1)
        save(folder / "polyu" / end / "Canon_chair_11.jpg", 50)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(protocol, "LOOKS", tmp_path / "looks.md")
    monkeypatch.setattr("benchmarks.sets.LOOKS", tmp_path / "looks.md")
    monkeypatch.setattr(protocol, "use_cores", lambda count: None)
    return folder


class Counted:
    """Two rivals that count their runs: one is told sigma and is best at 20, one is told nothing."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def sharpest_at_20(self, pair: Pair, sigma: float) -> np.ndarray:
        self.runs.append(f"told {sigma:g}")
        return np.asarray(pair.clean + (abs(sigma - 20) + 1) / 255, np.float32)

    def plain(self, pair: Pair, sigma: float) -> np.ndarray:
        self.runs.append("plain")
        return pair.clean * np.float32(0.9)

    def broken(self, pair: Pair, sigma: float) -> np.ndarray:
        raise RuntimeError("it is broken")

    def rivals(self, anchors: Path, python: str | None = None) -> dict[str, Rival]:
        return {
            "told": Rival("told", "σ", True, self.sharpest_at_20),
            "plain": Rival("plain", "nothing", False, self.plain),
            "absent": Rival("absent", "nothing", False, self.plain, lambda: "it is not here"),
            "broken": Rival("broken", "nothing", False, self.broken),
            "slow": Rival("slow", "nothing", False, self.plain, slow=True),
        }


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted()
    monkeypatch.setattr(protocol, "make_rivals", made.rivals)
    return made


def run(monkeypatch: pytest.MonkeyPatch, name: str, *options: str) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["protocol", name, "data", *options, "-o", "out.json"])
    protocol.main()
    values: dict[str, Any] = json.loads(Path("out.json").read_text(encoding="utf-8"))
    return values


def methods(result: dict[str, Any], image: str) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in result["rows"] if row["image"] == image}


def test_a_run_that_was_stopped_goes_on(data: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "cbsd68-25-clipped", "--limit", "1", "--grid", "10", "20")
    assert counted.runs[0] == "told 25"
    assert len(counted.runs) == 5
    counted.runs.clear()
    result = run(monkeypatch, "cbsd68-25-clipped", "--grid", "10", "20")
    # Only the second image was left.
    assert len(counted.runs) == 5
    first = methods(result, "0005")
    assert "told, σ 20" in first and "broken" not in first and "slow" not in first
    counted.runs.clear()
    result = run(monkeypatch, "cbsd68-25-clipped", "--grid", "10", "20", "30")
    assert counted.runs == ["told 30", "told 30"]
    best = methods(result, "0008")["told, best σ of the grid"]
    assert (best["sigma"], best["inputs"]["of"]) == (20, [10, 20, 30])
    assert methods(result, "0008")["told, one σ for the set"]["psnr"] == best["psnr"]
    text = Path("out.md").read_text(encoding="utf-8")
    assert "| told, one σ for the set | σ |" in text
    assert "| told, σ 20 |" not in text


def test_other_settings_do_not_mix_in_one_file(data: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "cbsd68-25", "--method", "plain")
    with pytest.raises(SystemExit, match="rows of other settings"):
        run(monkeypatch, "cbsd68-25", "--method", "plain", "--crop", "16")


def test_papers_have_a_column_and_a_source(data: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, "cbsd68-25", "--method", "told:true")
    for row in result["rows"]:
        row["method"] = row["method"].replace("told", "ffdnet")
    text = protocol.summary(result, {})
    assert text.splitlines()[-1].startswith("Papers: Zhang, Zuo and Zhang 2018")
    assert "| 31.21 |" in text


def test_no_sigma_is_true_where_noise_is_real(data: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, "sidd", "--method", "told:true", "--method", "told:estimated")
    assert set(methods(result, "2_14")) == {"noisy", "told, σ estimated"}


def test_looks_are_written_down(data: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="--why"):
        run(monkeypatch, "sidd", "--split", "validation", "--method", "plain")
    Path("out.json").unlink(missing_ok=True)
    run(monkeypatch, "sidd", "--split", "validation", "--method", "plain", "--why", "a trial")
    assert "| validation | python -m benchmarks.protocol sidd data" in Path("looks.md").read_text(encoding="utf-8")


def test_test_images_are_run_once_for_a_release(data: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--split", "test", "--method", "plain")
    with pytest.raises(SystemExit, match="--release"):
        run(monkeypatch, "cbsd68-25", *options)
    result = run(monkeypatch, "cbsd68-25", *options, "--release", "1.0")
    assert {row["image"] for row in result["rows"]} == {"0001"}
    # The same run may go on.
    run(monkeypatch, "cbsd68-25", *options, "--release", "1.0")
    Path("out.json").unlink()
    with pytest.raises(SystemExit, match="has been run for release"):
        run(monkeypatch, "cbsd68-25", *options, "--release", "1.0")
    run(monkeypatch, "cbsd68-25", *options, "--release", "1.1")


@pytest.mark.parametrize("method", ["unknown", "plain:true", "told:twice"])
def test_a_wrong_method_is_refused(data: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    with pytest.raises(SystemExit, match="--method"):
        run(monkeypatch, "cbsd68-25", "--method", method)


def test_a_set_without_files_is_refused(data: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="there is no tuning image"):
        run(monkeypatch, "kodak24-25")


@pytest.mark.parametrize(
    ("name", "image", "shape"),
    [
        ("cbsd68-25", "0005", (3, SIDE, SIDE + 2)),
        ("cbsd68-grey-15-clipped", "0005", (1, SIDE, SIDE + 2)),
        ("sidd", "2_14", (3, SIDE, SIDE + 2)),
        ("fmd", "Confocal_FISH_1", (1, SIDE, SIDE + 2)),
        ("polyu", "Canon_chair_11", (3, SIDE, SIDE + 2)),
    ],
)
def test_images_of_a_protocol(data: Path, name: str, image: str, shape: tuple[int, ...]) -> None:
    case, *_ = PROTOCOLS[name].cases(data, load_sets()[PROTOCOLS[name].data_set], "tuning")
    pair = case.load()
    assert (pair.name, pair.noisy.shape, pair.clean.shape) == (image, shape, shape)
    assert case.load(10).noisy.shape == (shape[0], 10, 10)


def test_clipped_noise_is_that_of_the_files_where_there_are_some(data: Path) -> None:
    sets = load_sets()
    stored = np.asarray(Image.open(data / "cbsd68" / "noise25" / "0005.png")).transpose(2, 0, 1) / 255
    pair = PROTOCOLS["cbsd68-25-clipped"].cases(data, sets["cbsd68"], "tuning")[0].load()
    np.testing.assert_allclose(pair.noisy, stored, atol=1e-6)


def test_made_noise_depends_on_name_and_sigma_alone() -> None:
    clean = np.full((1, 64, 64), 0.02, np.float32)
    free, again = (with_noise("a", clean, 25, clipped=False) for _ in range(2))
    np.testing.assert_array_equal(free.noisy, again.noisy)
    assert free.noisy.min() < 0
    assert free.dtype == "float32"
    assert (free.noisy - clean).std() == pytest.approx(25 / 255, rel=0.03)
    clipped = with_noise("a", clean, 25, clipped=True)
    np.testing.assert_allclose(clipped.noisy, np.rint(np.clip(free.noisy, 0, 1) * 255) / 255, atol=1e-6)
    assert not np.array_equal(with_noise("b", clean, 25, clipped=False).noisy, free.noisy)


def test_the_middle_of_a_small_image_is_all_of_it() -> None:
    assert middle(np.zeros((1, 8, 30), np.float32), 10).shape == (1, 8, 10)


def test_scores_of_equal_images_and_of_blurred_ones() -> None:
    rng = np.random.default_rng(0)
    clean = rng.uniform(0, 1, (3, 32, 32))
    assert ssim(clean, clean) == 1
    assert gmsd(clean, clean) == 0
    flat = np.full_like(clean, clean.mean())
    # Half of the image is flat: gradients differ there and not in the other half.
    half = np.concatenate([clean[:, :16], flat[:, 16:]], 1)
    assert gmsd(half, clean) > gmsd(clean + 0.001 * rng.standard_normal(clean.shape), clean) > 0
    assert scores(clean + 9, np.ones_like(clean))["ssim"] == 1


def test_the_front_has_what_no_other_method_beats() -> None:
    rows = [
        {"image": image, "method": method, "seconds": seconds, "psnr": psnr, **also}
        for image in ("a", "b")
        for method, seconds, psnr, also in (
            ("fast", 1, 30, {}),
            ("slow", 10, 29, {}),
            ("best", 20, 31, {}),
            ("bm3d, σ true", 0.5, 32, {}),
            ("bm3d, σ 20", 0.5, 33, {"grid": True}),
        )
    ]
    rows.append({"image": "a", "method": "partly", "seconds": 0.1, "psnr": 40})
    found = pareto.points(rows)
    assert [point.method for point in found] == ["bm3d, σ true", "fast", "slow", "best"]
    assert [point.method for point in pareto.front(found)] == ["fast", "best"]
    assert [point.method for point in pareto.front(found, told=True)] == ["bm3d, σ true"]


def test_the_front_is_drawn(data: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    run(monkeypatch, "cbsd68-25", "--method", "plain", "--method", "told:true")
    monkeypatch.setattr("sys.argv", ["pareto", "out.json", "-o", "plot.svg"])
    pareto.main()
    assert Path("plot.svg").read_text(encoding="utf-8").startswith("<?xml")
