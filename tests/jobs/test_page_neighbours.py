"""Which pages are neighbours, how many of them are taken, and what a stack becomes with them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

import self2self
from self2self.errors import UsageError
from self2self.image_io import Stack, stack_of_array
from self2self.jobs import page_neighbours
from self2self.jobs.fit import page_to_fit
from self2self.jobs.fit_config import FitOptions, run_folder
from self2self.jobs.observer import Observer
from self2self.jobs.page_fits import PageFits
from self2self.jobs.page_neighbours import NeighbourPages, alone, choose_neighbours
from self2self.jobs.prepared_image import prepare_for_model
from tests.imaging.scenes import FloatArray, noisy, other_view, view

SIDE = 64
CLEAN = view(side=SIDE)
OTHER = other_view(SIDE)
NO_STEPS = FitOptions(steps=0)


def as_pages(*frames: FloatArray) -> np.ndarray:
    """Frames (1, H, W) as 16-bit pages (pages, H, W)."""
    return np.stack([np.clip(np.round(frame[0] * 20000 + 8000), 0, 65535) for frame in frames]).astype(np.uint16)


def static(count: int, clean: FloatArray = CLEAN) -> np.ndarray:
    return as_pages(*(noisy(clean, seed) for seed in range(count)))


def stack_of(pages: np.ndarray) -> Stack:
    return stack_of_array(pages[..., None], "pages")


def chosen(pages: np.ndarray, asked: str | int = "auto") -> tuple[int, list[str]]:
    notes: list[str] = []
    with stack_of(pages) as stack:
        prepared = prepare_for_model(stack.read_page(0), whole_range=False)
        options = FitOptions(neighbours=asked)
        return choose_neighbours(stack, 0, prepared, options, Observer(note=notes.append)), notes


@pytest.mark.parametrize(
    ("index", "expected"), [(0, [1, 2, 3, 4]), (1, [0, 2, 3, 4]), (3, [2, 4, 1, 5]), (6, [5, 4, 3, 2])]
)
def test_the_nearest_pages_are_neighbours_also_at_the_ends(index: int, expected: list[int]) -> None:
    with stack_of(static(7)) as stack:
        assert NeighbourPages(stack, 2).neighbours(index) == expected


def test_a_page_is_read_once_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Stack.read_page
    monkeypatch.setattr(Stack, "read_page", lambda self, index: read.append(index) or original(self, index))
    with stack_of(static(9)) as stack:
        pages = NeighbourPages(stack, 1)
        kept = []
        for index in range(9):
            pages.for_model(index, prepare_for_model(pages.read_page(index), whole_range=False))
            kept.append(len(pages._read))
    assert read == list(range(9))
    assert max(kept) <= 4


def test_a_page_does_not_depend_on_the_pages_before_it() -> None:
    with stack_of(static(5)) as stack:
        results = []
        for start in (0, 3):
            pages = NeighbourPages(stack, 1)
            for index in range(start, 4):
                page = pages.for_model(index, prepare_for_model(pages.read_page(index), whole_range=False))
            results.append(page.prepared.pixels)
    np.testing.assert_array_equal(*results)


def test_tiles_make_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = as_pages(*(noisy(view(100, 100, 300), seed) for seed in range(3)))
    results = []
    for side in (1024, 150):
        monkeypatch.setattr(page_neighbours, "TILE_SIDE", side)
        with stack_of(pages) as stack:
            page = prepare_for_model(stack.read_page(1), whole_range=False)
            results.append(NeighbourPages(stack, 1).fused(1, page))
    whole, tiled = results
    assert np.isfinite(tiled.pixels).all()
    # Where noise decides about a weight, a tile may decide otherwise; typically they are equal.
    assert np.abs(tiled.pixels - whole.pixels).mean() < 0.02 * np.abs(whole.pixels - page.pixels).mean()


def test_auto_takes_as_many_as_fit() -> None:
    assert chosen(static(7))[0] == 2
    count, notes = chosen(static(4))
    assert count == 1
    assert any(
        re.search(r"fused with its 2 nearest pages.*\(9\d % of what was tried\).*--neighbours 0", note)
        for note in notes
    )
    unrelated = [noisy(clean, seed) for seed, clean in enumerate((CLEAN, OTHER, 1 - CLEAN[:, ::-1], OTHER[:, :, ::-1]))]
    assert chosen(as_pages(*unrelated)) == (0, [])
    assert chosen(as_pages(*unrelated), 1)[0] == 1
    assert chosen(static(7), 0) == (0, [])
    assert chosen(static(1)) == (0, [])


def test_what_frames_share_is_said() -> None:
    repeated = [noisy(CLEAN, seed // 2) for seed in range(6)]
    assert any("holds the same frame more than once in a row" in note for note in chosen(as_pages(*repeated))[1])
    pattern = noisy(CLEAN, 99)
    fixed = [noisy(pattern, seed, 0.03) for seed in range(5)]
    assert any("% of the noise is the same in successive pages" in note for note in chosen(as_pages(*fixed))[1])
    assert not any("noise is the same" in note for note in chosen(static(5))[1])


def test_impulses_keep_pages_apart() -> None:
    pages, rng = static(4), np.random.default_rng(0)
    pages[rng.random(pages.shape) < 0.1] = 60000
    pages[rng.random(pages.shape) < 0.1] = 0
    count, notes = chosen(pages)
    assert count == 0
    assert any("has impulses, so every page is denoised by itself" in note for note in notes)


def psnrs(result: np.ndarray, clean: np.ndarray) -> list[float]:
    errors = np.square((result.astype(float) - clean) / 20000).mean(axis=(1, 2))
    return [float(-10 * np.log10(error)) for error in errors]


def test_a_static_stack_gains_and_a_page_after_a_cut_loses_nothing() -> None:
    clean = as_pages(*[CLEAN] * 4, *[OTHER] * 3)
    pages = as_pages(*(noisy(frame, seed) for seed, frame in enumerate([CLEAN] * 4 + [OTHER] * 3)))
    apart = self2self.denoise(pages, fit_options=NO_STEPS, neighbours=0)
    fused = self2self.denoise(pages, fit_options=NO_STEPS, neighbours=1)
    gains = np.subtract(psnrs(fused.image, clean), psnrs(apart.image, clean))
    assert gains.min() > -0.1
    assert gains[[1, 2, 5]].min() > 1.5
    # The noise that is told is that of a page, not what neighbours leave of it.
    assert fused.sigma == pytest.approx(apart.sigma, rel=0.15)


@pytest.mark.parametrize("count", [1, 2])
def test_fused_pages_whose_noise_was_cut_off_at_black_are_not_too_bright(count: int) -> None:
    clean = np.round(255 * np.clip(view(side=SIDE)[0] - 0.25, 0, 1))
    frames = [clean + 20 * np.random.default_rng(seed).normal(size=clean.shape) for seed in range(5)]
    pages = np.clip(np.round(frames), 0, 255).astype(np.uint8)
    dark = clean == 0
    assert dark.mean() > 0.1
    apart, fused = (
        self2self.denoise(pages, fit_options=NO_STEPS, neighbours=neighbours).image for neighbours in (0, count)
    )
    # The mean of clipped values is too bright by 0.4 times 20 grey levels.
    assert pages[:, dark].mean() > 6
    assert fused[:, dark].mean() < 2.5
    errors = [np.square(result.astype(float) - clean).mean() for result in (apart, fused)]
    assert errors[1] < 0.75 * errors[0]


def test_a_file_gives_the_bits_of_its_array_and_infer_those_of_denoise(tmp_path: Path) -> None:
    pages = static(4)
    tifffile.imwrite(tmp_path / "in.tif", pages, photometric="minisblack")
    fitting = replace(NO_STEPS, run=tmp_path / "run", neighbours=1)
    options = self2self.EnsembleOptions(passes=2)
    outputs = self2self.OutputOptions(output=tmp_path / "out.tif", uncertainty=tmp_path / "std.tif")
    self2self.denoise_job(tmp_path / "in.tif", fitting, options, outputs)
    result = self2self.denoise(pages, neighbours=1, passes=2, uncertainty=True, fit_options=NO_STEPS)
    np.testing.assert_array_equal(result.image, tifffile.imread(tmp_path / "out.tif"))
    np.testing.assert_array_equal(result.uncertainty, tifffile.imread(tmp_path / "std.tif"))
    model = self2self.load(tmp_path / "run" / "model.onnx")
    assert model.contract.neighbours == 1
    np.testing.assert_array_equal(model.predict(pages, passes=2).image, result.image)
    with pytest.raises(UsageError, match="neighbours 1, asked for 0"):
        self2self.denoise(pages, neighbours=0, run=tmp_path / "run", fit_options=NO_STEPS)


def test_a_fit_to_other_neighbours_is_another_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELF2SELF_CACHE", str(tmp_path / "cache"))
    pages = static(3)
    fitting = FitOptions(steps=1, neighbours=1)
    folders = []
    for seed in (7, 8):
        pages[1:] = as_pages(noisy(CLEAN, seed), noisy(CLEAN, seed + 10))
        self2self.fit(pages, run=tmp_path / f"run{seed}", fit_options=fitting)
        with stack_of(pages) as stack:
            prepared, asked = page_to_fit(stack, fitting, Observer())
            fits, _ = PageFits.of(stack, fitting, Observer())
        assert fits.first.folder == run_folder(prepared, asked).folder
        folders.append(fits.first.folder)
    assert folders[0] != folders[1], "page 1 is the same, what is fused with it is not"
    with pytest.raises(UsageError, match="fused page"):
        self2self.fit(pages, run=tmp_path / "run7", fit_options=fitting)


def test_a_single_image_is_scaled_for_a_model_of_fused_pages(tmp_path: Path) -> None:
    model = self2self.fit(static(4), fit_options=replace(NO_STEPS, neighbours=1))
    page = static(1)[0]
    result, clean = model.predict(page, passes=2).image, as_pages(CLEAN)[0]
    assert psnrs(result[None], clean)[0] > psnrs(page[None], clean)[0] + 5
    prepared = prepare_for_model(stack_of(page[None]).read_page(0), whole_range=False)
    assert alone(prepared, 0).prepared is prepared
    assert alone(prepared, 1).prepared.pixels.std() < prepared.pixels.std()


@pytest.mark.parametrize("fit_pages", ["first", "each"])
def test_missing_values_and_empty_pages_stay(fit_pages: str) -> None:
    pages = static(3).astype(np.float32)
    pages[1, 10:20, 10:20] = np.nan
    pages[2] = np.nan
    options = FitOptions(steps=1, fit_pages=fit_pages)
    result = self2self.denoise(pages, neighbours=1, passes=2, fit_options=options).image
    np.testing.assert_array_equal(np.isnan(result), np.isnan(pages))


@pytest.mark.parametrize("value", [3, -1, "two"])
def test_a_wrong_number_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=f"--neighbours is {value}; expected one of: auto, 0, 1, 2"):
        FitOptions(neighbours=value).check()  # type: ignore[arg-type]
