"""Images with pixels that hold no measurement, from file to file: compared with clean values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage import data

import self2self
from self2self.jobs import StackResult, infer_job

ROWS, COLUMNS = np.mgrid[:128, :128]
OUTSIDE = (ROWS - 63.5) ** 2 + (COLUMNS - 63.5) ** 2 > 60**2
CLEAN = data.camera()[60:188, 180:308] / 255 * 400 - 150
NOISY = np.rint(CLEAN + np.random.default_rng(2).normal(0, 30, CLEAN.shape)).astype(np.int16)
QUICK = self2self.EnsembleOptions(passes=4)


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def denoised(folder: Path, name: str, values: np.ndarray, **options: object) -> tuple[np.ndarray, list[str]]:
    tifffile.imwrite(folder / name, values, metadata=None)
    notes: list[str] = []
    fitting = self2self.FitOptions(run=folder / f"run-{name}", steps=0, **options)  # type: ignore[arg-type]
    result = self2self.denoise_job(
        folder / name,
        fitting,
        QUICK,
        self2self.OutputOptions(uncertainty=folder / f"std-{name}"),
        self2self.Observer(note=notes.append),
    )
    return tifffile.imread(result.output), notes


def test_what_is_beside_missing_pixels_is_as_good_as_elsewhere(tmp_path: Path) -> None:
    """As a CT with GE's padding."""
    padded = np.where(OUTSIDE, -3024, NOISY).astype(np.int16)
    result, notes = denoised(tmp_path, "padded.tif", padded)
    whole, _ = denoised(tmp_path, "whole.tif", NOISY)
    assert np.array_equal(result[OUTSIDE], padded[OUTSIDE])
    assert [note for note in notes if f"{np.count_nonzero(OUTSIDE)} of its 16384 pixels hold no measurement" in note]
    beside = ~OUTSIDE & ((ROWS - 63.5) ** 2 + (COLUMNS - 63.5) ** 2 > 52**2)
    interior = rms((result - CLEAN)[~OUTSIDE & ~beside])
    assert rms((result - CLEAN)[beside]) < 1.1 * interior
    assert interior < 1.05 * rms((whole - CLEAN)[~OUTSIDE & ~beside])
    deviations = tifffile.imread(tmp_path / "std-padded.tif")
    assert not deviations[OUTSIDE].any()
    assert deviations[~OUTSIDE].all()


@pytest.mark.parametrize("value", [np.nan, -9999.0])
def test_a_model_reads_other_images_as_the_fitted_one(tmp_path: Path, value: float) -> None:
    values = np.where(OUTSIDE, value, NOISY + 0.25).astype(np.float32)
    values[10, 40:43] = value
    nodata = None if np.isnan(value) else value
    result, _ = denoised(tmp_path, "x.tif", values, nodata=nodata)
    missing = ~(np.isfinite(values) & (values != value))
    assert result[missing].tobytes() == values[missing].tobytes()
    notes: list[str] = []
    infer_job(
        tmp_path / "run-x.tif" / "model.onnx",
        [tmp_path / "x.tif"],
        QUICK,
        self2self.OutputOptions(output=tmp_path / "again.tif"),
        self2self.Observer(note=notes.append),
    )
    assert np.array_equal(tifffile.imread(tmp_path / "again.tif"), result, equal_nan=True)
    assert not any("is not the image" in note for note in notes)


def test_a_stack_keeps_the_missing_pixels_of_each_page(tmp_path: Path) -> None:
    pages = np.stack([NOISY, NOISY[::-1], NOISY.T]).astype(np.float32)
    missing = np.stack([OUTSIDE, ROWS < 20, np.zeros_like(OUTSIDE)])
    pages[missing] = np.nan
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    fitting = self2self.FitOptions(run=tmp_path / "run", steps=0)
    outputs = self2self.OutputOptions(uncertainty=tmp_path / "std.tif")
    result = tifffile.imread(self2self.denoise_job(tmp_path / "stack.tif", fitting, QUICK, outputs).output)
    assert np.array_equal(np.isnan(result), missing)
    assert not tifffile.imread(tmp_path / "std.tif")[missing].any()


def test_nothing_is_changed_that_is_no_noise(tmp_path: Path) -> None:
    letters = np.where((ROWS // 3) * (COLUMNS // 4) % 7 < 2, 10, 255).astype(np.uint8)
    result, notes = denoised(tmp_path, "letters.tif", letters)
    assert np.array_equal(result, letters)
    assert any("has no noise" in note for note in notes)


@pytest.mark.parametrize("nodata", ["-9999", float("inf"), True])
def test_a_wrong_value_is_refused(nodata: object) -> None:
    with pytest.raises(self2self.Self2SelfError, match=r"nodata is .*; expected a finite number, 'none' or None"):
        self2self.denoise_job("x.png", self2self.FitOptions(nodata=nodata))  # type: ignore[arg-type]


def sensor_values() -> tuple[np.ndarray, np.ndarray]:
    """A mosaic as linear as a sensor, without and with noise, each (128, 128)."""
    linear = (data.coffee()[100:228, 250:378] / 255) ** 2.2
    clean = np.empty((128, 128))
    for (down, right), values in zip(
        ((0, 0), (0, 1), (1, 0), (1, 1)),
        (0.5 * linear[..., 0], linear[..., 1], linear[..., 1], 0.6 * linear[..., 2]),
        strict=True,
    ):
        clean[down::2, right::2] = 12000 * values[down::2, right::2] + 512
    noise = np.random.default_rng(17).normal(0, 1, clean.shape) * np.sqrt(1600 + 20 * (clean - 512))
    return clean, np.clip(np.rint(clean + noise), 0, 16383).astype(np.uint16)


def test_a_mosaic_is_denoised_plane_by_plane(tmp_path: Path) -> None:
    """At least 37 dB of its range, where the noisy mosaic has 34.2 and an ordinary fit loses."""
    clean, noisy = sensor_values()
    result, notes = denoised(tmp_path, "mosaic.tif", noisy)
    assert any("is a mosaic of colour filters" in note for note in notes)
    assert 20 * np.log10(np.ptp(clean) / rms(result - clean)) > 37


def test_camera_raw_is_denoised_as_the_sensor_measured_it(tmp_path: Path) -> None:
    """A mosaic whose black level is 512, with an unlike masked border, in a DNG."""
    rawpy = pytest.importorskip("rawpy")
    clean, noisy = sensor_values()
    bordered = np.pad(noisy, ((4, 0), (2, 0)), constant_values=512)
    tags = [
        (50706, 1, 4, bytes([1, 4, 0, 0]), True),
        (50708, 2, 0, b"Test Camera", True),
        (50721, 10, 9, (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1), True),
        (50728, 5, 3, (1, 2, 1, 1, 3, 5), True),
        (33421, 3, 2, (2, 2), True),
        (33422, 1, 4, bytes([0, 1, 1, 2]), True),
        (50714, 3, 1, 512, True),
        (50717, 3, 1, 12512, True),
        (50829, 3, 4, (4, 2, 132, 130), True),
    ]
    tifffile.imwrite(tmp_path / "in.dng", bordered, photometric=32803, metadata=None, extratags=tags)
    fitting = self2self.FitOptions(run=tmp_path / "run", steps=0)
    result = self2self.denoise_job(tmp_path / "in.dng", fitting, QUICK)
    assert result.output.name == "in.denoised.dng"
    with rawpy.imread(str(result.output)) as raw:
        values = raw.raw_image_visible.astype(float)
        assert raw.black_level_per_channel == [512] * 4
    assert 20 * np.log10(np.ptp(clean) / rms(values - clean)) > 37


def test_an_image_without_noise_is_copied_without_a_fit(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.full((64, 64), 7, np.uint8))
    run = tmp_path / "run"
    result = self2self.denoise_job(
        tmp_path / "x.tif",
        self2self.FitOptions(run=run),
        QUICK,
        self2self.OutputOptions(uncertainty=tmp_path / "s.tif"),
    )
    assert np.array_equal(tifffile.imread(result.output), np.full((64, 64), 7))
    assert not tifffile.imread(tmp_path / "s.tif").any()
    assert not run.exists()
    assert result.to_json()["passes"] == 0


def test_empty_pages_are_copied_and_the_fits_go_on_from_the_pages_before(tmp_path: Path) -> None:
    noisy = NOISY[:64, :64]
    empty = np.full_like(noisy, 7)
    pages = np.stack([empty, noisy, empty, noisy.T, noisy[::-1]])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    fitting = self2self.FitOptions(run=tmp_path / "run", steps=4, fit_pages="each")
    result = self2self.denoise_job(tmp_path / "stack.tif", fitting, QUICK)
    written = tifffile.imread(result.output)
    assert np.array_equal(written[[0, 2]], pages[[0, 2]])
    for page in (1, 3, 4):
        assert not np.array_equal(written[page], pages[page])
    assert isinstance(result, StackResult)
    assert [bool(page.passes) for page in result.pages] == [False, True, False, True, True]
    errors = [page.standard_error for page in result.pages if page.passes]
    assert result.standard_error == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert result.fit is not None
    assert result.fit.config.noise is not None
    assert result.fit.config.noise.sigma > 5
    assert not (tmp_path / "run" / "pages").exists()
