"""`self2self.denoise`: from array to array, compared with clean values and with what the same call does from a file."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage import data

import self2self
from self2self import FitOptions
from self2self.errors import InputError, InterruptedRun, UsageError, as_argument, speaking
from tests.arrays.arrays import CLEAN, FEW_STEPS, NO_STEPS, QUICK, as_bytes, noisy, rms


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float16, np.float32, np.float64, ">u2"])
def test_shape_type_and_units_stay_and_noise_goes(dtype: str) -> None:
    scale = 1 if dtype == np.uint8 else 20
    given = np.clip(noisy(scale=scale), 0, None).clip(0, 255 * scale).astype(dtype)
    before = given.copy()
    result = self2self.denoise(given, **QUICK, uncertainty=True)
    assert result.image.shape == given.shape
    assert result.image.dtype == given.dtype
    assert result.uncertainty is not None
    assert (result.uncertainty.shape, result.uncertainty.dtype) == (given.shape, np.float32)
    assert rms(result.image - CLEAN * scale) < 0.6 * rms(given - CLEAN * scale)
    assert 10 * scale < result.sigma < 30 * scale
    np.testing.assert_array_equal(given, before)


def test_an_array_gives_the_bits_that_its_file_gives(tmp_path: Path) -> None:
    given = as_bytes(noisy())
    tifffile.imwrite(tmp_path / "in.tif", given, photometric="minisblack")
    options = self2self.EnsembleOptions(passes=3, seed=4)
    outputs = self2self.OutputOptions(output=tmp_path / "out.tif", uncertainty=str(tmp_path / "std.tif"))
    fitting = self2self.FitOptions(steps=2, seed=4, run=tmp_path / "run")
    self2self.denoise_job(tmp_path / "in.tif", fitting, options, outputs)
    result = self2self.denoise(given, fit_options=FEW_STEPS, passes=3, seed=4, uncertainty=True)
    np.testing.assert_array_equal(result.image, tifffile.imread(tmp_path / "out.tif"))
    np.testing.assert_array_equal(result.uncertainty, tifffile.imread(tmp_path / "std.tif"))


def test_the_pixels_of_all_pages_tell_how_many_views_a_single_pass_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.stack([as_bytes(noisy(seed=seed)) for seed in range(3)])
    one = self2self.denoise(given[:1], fit_options=FEW_STEPS)
    monkeypatch.setattr("self2self.model.plain.MANY_PIXELS", 2 * given[0].size)
    assert {page.passes for page in self2self.denoise(given, fit_options=FEW_STEPS).pages} == {2}
    np.testing.assert_array_equal(self2self.denoise(given[:1], fit_options=FEW_STEPS).image, one.image)


@pytest.mark.parametrize("fit_pages", ["first", "each"])
def test_a_stack_gives_the_bits_that_its_file_gives(tmp_path: Path, fit_pages: str) -> None:
    given = np.stack([as_bytes(noisy(seed=seed)) for seed in range(3)])
    tifffile.imwrite(tmp_path / "in.tif", given, photometric="minisblack")
    fitting = self2self.FitOptions(steps=1, run=str(tmp_path / "run"), fit_pages=fit_pages)
    options, outputs = self2self.EnsembleOptions(passes=2), self2self.OutputOptions(output=tmp_path / "out.tif")
    self2self.denoise_job(tmp_path / "in.tif", fitting, options, outputs)
    result = self2self.denoise(given, passes=2, fit_options=self2self.FitOptions(steps=1, fit_pages=fit_pages))
    np.testing.assert_array_equal(result.image, tifffile.imread(tmp_path / "out.tif"))
    assert [page.seed for page in result.pages] == [0, 1, 2]


def test_axes_do_not_change_what_a_page_becomes() -> None:
    pages = np.stack([noisy(seed=seed) for seed in range(2)]).astype(np.float32)
    plain = self2self.denoise(pages, **QUICK).image
    moved = self2self.denoise(pages.transpose(2, 0, 1)[:, :, None], axes="XTZY", **QUICK)
    np.testing.assert_array_equal(moved.image[:, :, 0].transpose(1, 2, 0), plain)


def test_numbers_of_numpy_are_numbers() -> None:
    given = as_bytes(noisy())
    options: dict[str, Any] = {"fit_options": FitOptions(steps=np.int64(0)), "passes": np.int64(2), "seed": np.uint8(3)}
    result = self2self.denoise(given, sigma=np.float32(20), strength=np.float64(0.5), nodata=np.uint8(0), **options)
    plain: dict[str, Any] = {"sigma": 20, "strength": 0.5, "nodata": 0, "passes": 2, "seed": 3, "fit_options": NO_STEPS}
    np.testing.assert_array_equal(result.image, self2self.denoise(given, **plain).image)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"fit_options": {"steps": 0}}, "options are of type dict; expected self2self.FitOptions"),
        ({"axes": 3}, "axes is 3; expected a text"),
        ({"run": 5}, "run is 5; expected a path"),
        ({"sigma": "5"}, "sigma is '5'; expected a number"),
        ({"passes": 1, "uncertainty": True}, "uncertainty is the deviation between passes, and passes=1 has none"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments: dict[str, Any], text: str) -> None:
    with speaking(as_argument), pytest.raises(UsageError, match=text):
        self2self.denoise(as_bytes(noisy()), **arguments)


def test_channels_that_are_last_are_asked_for() -> None:
    with pytest.raises(UsageError, match=r"its last axis is too short .* --axes YXC"):
        self2self.denoise(np.zeros((64, 64, 5), np.float32), **QUICK)


def test_options_of_pages_change_nothing_of_one() -> None:
    result = self2self.denoise(as_bytes(noisy()), neighbours=1, **QUICK)
    assert any("has one page, so --neighbours 1 changes nothing" in note for note in result.notes)


def test_nothing_is_written_unless_a_run_folder_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    self2self.denoise(as_bytes(noisy()), **QUICK)
    assert {path.name for path in tmp_path.rglob("*")} == {"temporary", "here"}
    assert capfd.readouterr() == ("", "")


def test_a_run_folder_keeps_the_fit(tmp_path: Path) -> None:
    given = as_bytes(noisy())
    first = self2self.denoise(given, run=str(tmp_path / "run"), passes=2, fit_options=FEW_STEPS)
    again = self2self.denoise(given, run=str(tmp_path / "run"), passes=2, fit_options=FEW_STEPS)
    assert any("using the finished fit" in note for note in again.notes)
    np.testing.assert_array_equal(first.image, again.image)
    with pytest.raises(UsageError, match="other settings"):
        self2self.denoise(given, run=str(tmp_path / "run"), passes=2, fit_options=NO_STEPS)


def test_a_cancelled_fit_goes_on_from_its_folder_with_the_same_bits(tmp_path: Path) -> None:
    given, cancel = as_bytes(noisy()), threading.Event()
    cancel.set()
    with pytest.raises(InterruptedRun, match="after step 1 of 2"):
        self2self.denoise(given, run=tmp_path / "run", passes=2, cancel=cancel, fit_options=FEW_STEPS)
    resumed = self2self.denoise(given, run=tmp_path / "run", passes=2, fit_options=FEW_STEPS)
    assert any("continuing" in note for note in resumed.notes)
    np.testing.assert_array_equal(resumed.image, self2self.denoise(given, passes=2, fit_options=FEW_STEPS).image)
    with pytest.raises(InterruptedRun, match="nothing is kept"):
        self2self.denoise(given, passes=2, cancel=cancel, fit_options=FEW_STEPS)


def test_passes_can_be_cancelled() -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(InterruptedRun):
        self2self.denoise(as_bytes(noisy()), cancel=cancel, **QUICK)


def test_threads_get_the_bits_of_a_call_alone() -> None:
    given = as_bytes(noisy())
    alone = self2self.denoise(given, passes=2, fit_options=FEW_STEPS).image
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: self2self.denoise(given, passes=2, fit_options=FEW_STEPS), range(3)))
    for result in results:
        np.testing.assert_array_equal(result.image, alone)


def test_missing_values_count_for_nothing_and_come_back() -> None:
    given = noisy().astype(np.float32)
    given[20:30, 20:30] = np.nan
    given[0, 0] = np.inf
    result = self2self.denoise(given, **QUICK, uncertainty=True)
    lost = ~np.isfinite(given)
    np.testing.assert_array_equal(result.image[lost], given[lost])
    assert result.uncertainty is not None
    assert not result.uncertainty[lost].any()
    assert rms((result.image - CLEAN)[~lost]) < 0.6 * 20
    marked = np.where(lost, -9999, given)
    same = self2self.denoise(marked, nodata=-9999, **QUICK).image
    np.testing.assert_array_equal(same[~lost], result.image[~lost])
    assert (same[lost] == -9999).all()


@pytest.mark.parametrize("as_channels", [False, True])
def test_masked_values_count_for_nothing_and_come_back(as_channels: bool) -> None:
    values = as_bytes(noisy())
    mask = np.zeros(values.shape, bool)
    mask[20:30, 20:30] = mask[0, 0] = True
    values[mask] = 255
    given = np.ma.array(values, mask=mask)
    axis = None
    if as_channels:
        given, axis = np.ma.stack([given, given[::-1]]), 0
    result = self2self.denoise(given, channel_axis=axis, **QUICK, uncertainty=True)
    assert isinstance(result.image, np.ma.MaskedArray)
    assert isinstance(result.uncertainty, np.ma.MaskedArray)
    assert result.image.dtype == np.uint8
    np.testing.assert_array_equal(result.image.mask, given.mask)
    np.testing.assert_array_equal(result.uncertainty.mask, given.mask)
    image = result.image[0] if as_channels else result.image
    assert (image.data[mask] == 255).all()
    assert rms((image.data.astype(float) - CLEAN)[~mask]) < 0.6 * 20
    assert result._repr_html_()
    # It is what the same values without a measurement give where they are marked in another way.
    marked = np.where(mask, np.nan, values.astype(np.float32))
    assert rms((self2self.denoise(marked, **QUICK).image - image.data)[~mask]) < 2


@pytest.mark.parametrize(
    ("dtype", "offset"), [("int64", 0), ("int64", -40), ("uint64", 0), ("int64", 3 * 10**9), (">i8", 0), ("int32", -40)]
)
def test_integers_of_64_bits_are_denoised_as_those_that_hold_them(dtype: str, offset: int) -> None:
    given = as_bytes(noisy()).astype(dtype) + offset
    result = self2self.denoise(given, **QUICK).image
    assert result.dtype == given.dtype
    narrow = given.astype(np.uint32 if offset > 2**31 else np.int32 if offset < 0 else np.uint16)
    np.testing.assert_array_equal(result, self2self.denoise(narrow, **QUICK).image)
    assert rms(result - offset - CLEAN) < 0.6 * 20


@pytest.mark.parametrize("value", [0, 7, -3.5])
def test_a_constant_array_stays_as_it_is(value: float) -> None:
    given = np.full((20, 30), value, np.float32)
    result = self2self.denoise(given, **QUICK)
    np.testing.assert_array_equal(result.image, given)
    assert any("no noise" in note for note in result.notes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 40)), "array: is 40x4 pixels; expected at least 8x8"),
        (np.zeros((0, 64)), r"array: has the shape \(0, 64\), so it is empty"),
        (np.full((20, 20), 2**40), r"array: has int64 values from \d+ to \d+; .* Convert it: noisy.astype\(float\)"),
        (np.full((20, 20), 2**40, np.uint64), "uint64"),
        (np.zeros((20, 20), np.complex64), "complex64"),
        (np.zeros((20, 20), bool), "bool"),
    ],
)
def test_what_is_refused_of_files_is_refused_of_arrays(given: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        self2self.denoise(given, **QUICK)


def test_an_array_of_eight_pixels_a_side_is_denoised() -> None:
    assert self2self.denoise(as_bytes(noisy())[:8, :8], **QUICK).image.shape == (8, 8)


def test_alpha_stays_and_colours_are_denoised() -> None:
    clean = data.astronaut()[100:164, 180:244]
    given = np.dstack([as_bytes(clean + np.random.default_rng(0).normal(0, 20, clean.shape)), clean[..., 0] | 1])
    result = self2self.denoise(given, **QUICK, uncertainty=True)
    np.testing.assert_array_equal(result.image[..., 3], given[..., 3])
    assert rms(result.image[..., :3] - clean.astype(float)) < 0.6 * 20
    assert result.uncertainty is not None
    assert result.uncertainty.shape == given.shape
    assert not result.uncertainty[..., 3].any()


def test_sigma_has_the_units_of_the_array() -> None:
    given = noisy(scale=0.01, offset=5)
    weak, strong = (self2self.denoise(given, sigma=sigma, **QUICK) for sigma in (0.05, 0.4))
    assert (weak.sigma, strong.sigma) == (pytest.approx(0.05, rel=0.01), pytest.approx(0.4, rel=0.01))
    clean = CLEAN * 0.01 + 5
    assert rms(weak.image - given) < rms(strong.image - given)
    assert rms(self2self.denoise(given, **QUICK).image - clean) < 0.6 * 0.2
    with pytest.raises(UsageError, match="in the units of array"):
        self2self.denoise(given, sigma=25, **QUICK)


def test_a_torch_tensor_and_an_array_without_a_name_give_numpy() -> None:
    import torch

    given = noisy().astype(np.float32)
    result = self2self.denoise(torch.from_numpy(given.copy()), **QUICK)
    assert isinstance(result.image, np.ndarray)
    np.testing.assert_array_equal(result.image, self2self.denoise(given, **QUICK).image)


@pytest.mark.parametrize("library", ["xarray", "dask.array", "zarr"])
def test_arrays_of_other_libraries_give_the_same(library: str) -> None:
    module = pytest.importorskip(library)
    given = np.stack([noisy(seed=seed) for seed in range(2)]).astype(np.float32)
    make = {
        "xarray": lambda: module.DataArray(given, dims=("z", "y", "x")),
        "dask.array": lambda: module.from_array(given, chunks=(1, 32, 32)),
        "zarr": lambda: module.array(given, chunks=(1, 32, 32)),
    }[library]
    result = self2self.denoise(make(), **QUICK)
    assert result.axes == ("ZYX" if library == "xarray" else "TYX")
    np.testing.assert_array_equal(result.image, self2self.denoise(given, **QUICK).image)


def test_progress_shows_bars(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    with warnings.catch_warnings():
        # Without Jupyter's widgets, tqdm says that its bars are plain.
        warnings.simplefilter("ignore")
        self2self.denoise(as_bytes(noisy()), progress=True, passes=4, fit_options=FEW_STEPS)
    shown = capsys.readouterr().err
    assert "fit: 100%" in shown
    assert "2/2" in shown
    assert "denoise: 100%" in shown
    assert "4/4" in shown


def test_progress_goes_to_a_function() -> None:
    # Channels whose noise differs are fitted apart.
    given = np.stack([[noisy(seed=page), noisy(sigma=2, seed=page)] for page in range(2)]).astype(np.float32)
    seen: list[self2self.Progress] = []
    self2self.denoise(given, axes="TCYX", progress=seen.append, passes=2, fit_options=FEW_STEPS)
    fits = [(at.part, at.done) for at in seen if at.phase == "fit"]
    assert fits == [(1, 1), (1, 2), (2, 1), (2, 2)]
    ends = [(at.part, at.page) for at in seen if at.phase == "denoise" and at.done == at.total == 2]
    assert ends == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert seen[0].where == "fit channel 1 of 2"
    assert seen[-1].where == "denoise channel 2 of 2 page 2 of 2"


def test_a_fit_and_a_prediction_tell_their_progress() -> None:
    seen: list[self2self.Progress] = []
    model = self2self.fit(as_bytes(noisy()), progress=seen.append, fit_options=FEW_STEPS)
    assert [(at.phase, at.done, at.total) for at in seen] == [("fit", 1, 2), ("fit", 2, 2)]
    seen.clear()
    model.predict(np.stack([noisy(seed=1), noisy(seed=2)]), axes="CYX", progress=seen.append, passes=2)
    assert [(at.part, at.parts) for at in seen if at.done == at.total] == [(1, 2), (2, 2)]


def test_what_a_progress_function_raises_ends_the_call() -> None:
    def stop(progress: self2self.Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        self2self.denoise(as_bytes(noisy()), progress=stop, fit_options=FEW_STEPS)


def test_a_result_shows_itself_in_a_notebook() -> None:
    result = self2self.denoise(as_bytes(noisy()), **QUICK)
    page = result._repr_html_()
    assert page.count("data:image/png;base64,") == 2
    assert "before" in page and "after" in page
    assert f"{result.sigma:.3g}" in page and f"{result.seconds:.1f} s" in page


@pytest.mark.parametrize("axes", ["TCYX", "YXS", "ZYX"])
def test_every_layout_shows_itself(axes: str) -> None:
    shape = {"TCYX": (2, 2, 64, 80), "YXS": (64, 80, 3), "ZYX": (2, 64, 80)}[axes]
    image = np.random.default_rng(0).normal(0, 1, shape)
    image.flat[0] = np.nan
    result = self2self.Denoised(image, None, (1.0,), axes, (), 2.0, ("a <b> note",), image)
    assert result._repr_html_().count("<img") == 2
    assert "a &lt;b&gt; note" in result._repr_html_()


@pytest.mark.slow
def test_a_noisy_photograph_gains_several_decibels() -> None:
    clean = data.astronaut()[64:192, 180:308].astype(np.float64)
    given = as_bytes(clean + np.random.default_rng(0).normal(0, 25, clean.shape))
    result = self2self.denoise(given)
    gain = 20 * np.log10(rms(given - clean) / rms(result.image - clean))
    assert gain > 9


ANY_BITS = np.random.default_rng(0).integers(0, 2**32, (64, 64), dtype=np.uint32).view(np.float32)
"""As an array may hold behind its mask, where nobody has set anything."""


@pytest.mark.parametrize(
    "empty",
    [
        np.ma.masked_all((64, 64), np.float32),
        np.ma.array(ANY_BITS, mask=True),
        np.full((64, 64), np.nan),
        np.full((3, 64, 64), 7, np.uint8),
    ],
)
def test_an_array_without_anything_to_denoise_comes_back_without_a_fit(empty: np.ndarray, tmp_path: Path) -> None:
    result = self2self.denoise(empty, run=tmp_path / "run")
    assert result.sigma == 0
    assert np.array_equal(np.ma.getdata(result.image), np.ma.getdata(empty), equal_nan=empty.dtype.kind == "f")
    assert not (tmp_path / "run").exists()
