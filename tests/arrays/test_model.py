"""`self2self.fit`, `load` and `Model`: the same predictions from memory, from a file and from a pickle."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import tifffile

import self2self
from self2self.errors import FileFormatError, InputError, UsageError
from self2self.jobs import infer_job
from self2self.jobs.single_pass_file import KEY
from tests.arrays.arrays import CLEAN, FEW_STEPS, NO_STEPS, as_bytes, noisy, rms
from tests.conftest import Fitted


@pytest.fixture(scope="module")
def model() -> self2self.Model:
    return self2self.fit(as_bytes(noisy()), fit_options=FEW_STEPS)


def test_a_model_denoises_another_image(model: self2self.Model) -> None:
    other = noisy(seed=5, scale=100).astype(np.float32)
    result = model.predict(other, passes=4, uncertainty=True)
    assert result.image.dtype == np.float32
    assert rms(result.image - CLEAN * 100) < 0.6 * 2000
    assert result.uncertainty is not None


def test_saved_loaded_and_pickled_models_predict_the_same(model: self2self.Model, tmp_path: Path) -> None:
    given = as_bytes(noisy(seed=1))
    expected = model.predict(given, passes=2, seed=3).image
    model.save(str(tmp_path / "m.onnx"))
    loaded = self2self.load(str(tmp_path / "m.onnx"))
    assert loaded == model
    (tmp_path / "m.onnx").unlink()
    for other in (loaded, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict(given, passes=2, seed=3).image, expected)


def test_a_model_does_what_the_command_infer_does(model: self2self.Model, tmp_path: Path) -> None:
    stack = np.stack([as_bytes(noisy(seed=seed)) for seed in (1, 2)])
    tifffile.imwrite(tmp_path / "in.tif", stack, photometric="minisblack")
    model.save(tmp_path / "m.onnx")
    options, outputs = self2self.EnsembleOptions(passes=2), self2self.OutputOptions(output=tmp_path / "out.tif")
    infer_job(tmp_path / "m.onnx", [tmp_path / "in.tif"], options, outputs, self2self.Observer())
    np.testing.assert_array_equal(model.predict(stack, passes=2).image, tifffile.imread(tmp_path / "out.tif"))


def test_a_fit_and_its_prediction_are_what_denoise_gives() -> None:
    given = as_bytes(noisy())
    fitted = self2self.fit(given, fit_options=NO_STEPS).predict(given, passes=2).image
    np.testing.assert_array_equal(fitted, self2self.denoise(given, fit_options=NO_STEPS, passes=2).image)


def test_a_prediction_takes_the_single_pass_where_denoise_does(tmp_path: Path) -> None:
    given = as_bytes(noisy())
    fitted = self2self.fit(given, fit_options=NO_STEPS, run=tmp_path / "run")
    expected = self2self.denoise(given, fit_options=NO_STEPS)
    assert [page.plain for page in expected.pages] == [True]
    fitted.save(tmp_path / "m.onnx")
    models = [fitted, pickle.loads(pickle.dumps(fitted))]
    models += [self2self.load(path) for path in (tmp_path / "m.onnx", tmp_path / "run" / "model.onnx")]
    for model in models:
        result = model.predict(given)
        assert [page.plain for page in result.pages] == [True]
        np.testing.assert_array_equal(result.image, expected.image)
    # What needs passes gets them, and so does a model that is in a file without its single pass.
    shutil.copy(tmp_path / "run" / "model.onnx", tmp_path / "alone.onnx")
    alone = self2self.load(tmp_path / "alone.onnx")
    for model, options in ((fitted, {"uncertainty": True}), (fitted, {"passes": 2}), (alone, {})):
        assert [page.plain for page in model.predict(given, **options).pages] == [False]


def test_a_model_is_saved_under_a_name_by_which_programs_know_it(model: self2self.Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"m\.pt: expected a name that ends in \.onnx, for example .*m\.onnx\."):
        model.save(tmp_path / "m.pt")
    assert list(tmp_path.iterdir()) == []


def test_the_command_infer_takes_the_single_pass_of_a_saved_model(tmp_path: Path) -> None:
    given = as_bytes(noisy())
    model = self2self.fit(given, fit_options=NO_STEPS)
    model.save(tmp_path / "m.onnx")
    tifffile.imwrite(tmp_path / "in.tif", given)
    outputs = self2self.OutputOptions(output=tmp_path / "out.tif")
    (result,) = infer_job(
        tmp_path / "m.onnx", [tmp_path / "in.tif"], self2self.EnsembleOptions(), outputs, self2self.Observer()
    )
    assert result.ensemble.plain
    np.testing.assert_array_equal(model.predict(given).image, tifffile.imread(tmp_path / "out.tif"))
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "in.tif", "out.tif"}


@pytest.mark.parametrize(
    "damage", ["", "{}", '{"weights": "%", "transferred": true}', '{"weights": "AAAA", "transferred": true}']
)
def test_a_damaged_single_pass_is_refused(damage: str, tmp_path: Path) -> None:
    given = as_bytes(noisy())
    model = self2self.fit(given, fit_options=NO_STEPS)
    proto = onnx.load_model_from_string(model.content)
    next(entry for entry in proto.metadata_props if entry.key == KEY).value = damage
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(FileFormatError, match="damaged"):
        self2self.load(tmp_path / "m.onnx").predict(given)


def test_the_single_pass_of_another_fit_is_refused(tmp_path: Path) -> None:
    given = as_bytes(noisy())
    first, second = (self2self.fit(given, fit_options=NO_STEPS, seed=seed) for seed in (0, 1))
    protos = [onnx.load_model_from_string(model.content) for model in (first, second)]
    entries = [next(entry for entry in proto.metadata_props if entry.key == KEY) for proto in protos]
    entries[0].value = entries[1].value
    (tmp_path / "m.onnx").write_bytes(protos[0].SerializeToString())
    with pytest.raises(FileFormatError, match="of another fit"):
        self2self.load(tmp_path / "m.onnx").predict(given)


def test_a_grey_model_takes_channels_one_by_one(model: self2self.Model) -> None:
    given = np.stack([as_bytes(noisy(seed=seed)) for seed in range(3)])
    result = model.predict(given, channel_axis=0, passes=2)
    for channel, image in zip(given, result.image, strict=True):
        np.testing.assert_array_equal(image, model.predict(channel, passes=2).image)


def test_a_colour_model_takes_three_channels_together(tiny_onnx: Path, tiny: Fitted) -> None:
    colour = self2self.load(tiny_onnx)
    given = np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8)
    as_colours = colour.predict(given, passes=2).image
    np.testing.assert_array_equal(colour.predict(given, channel_axis=2, passes=2).image, as_colours)
    assert colour.contract == tiny.contract


def test_wrong_channels_are_refused(model: self2self.Model, tiny_onnx: Path) -> None:
    with pytest.raises(InputError, match="array: is RGB; the model was fitted to grey"):
        model.predict(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="array: is 2 channels; the model was fitted to RGB"):
        self2self.load(tiny_onnx).predict(np.zeros((2, 32, 32), np.uint8), channel_axis=0)
    different = np.stack([noisy(scale=scale) for scale in (1, 10, 100)])
    with pytest.raises(InputError, match=r"array.take\(0, axis=0\)"):
        self2self.fit(different, channel_axis=0, fit_options=NO_STEPS)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        self2self.load(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(FileFormatError):
        self2self.load(str(tmp_path / "broken.onnx"))


def test_a_wrong_option_is_refused(model: self2self.Model) -> None:
    with pytest.raises(UsageError, match="passes"):
        model.predict(as_bytes(noisy()), passes=0)
