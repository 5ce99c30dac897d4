"""`denoise_pixels`: images of any size, the value range of the result, the memory budget, and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.errors import InputError, UsageError
from self2self.model.masks import BoolArray, Draws, MaskMaker
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.ensemble import denoise as module
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.moments import Moments
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model
from tests.conftest import Fitted
from tests.runtime.fakes import FakeEngine, Predict, fake_model, hide_pixels, repeat_image


class Uses:
    """Makes `denoise_pixels` use a fake engine; `last` is the last instance that it created."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.last: FakeEngine | None = None

    def __call__(self, predict: Predict) -> None:
        uses = self

        class RecordedEngine(FakeEngine):
            def __init__(self, model: Model, image: FloatArray) -> None:
                super().__init__(model, image)
                self.predict = predict  # type: ignore[method-assign]
                uses.last = self

        def get(name: str, *, plain_pixels: int | None) -> type[Engine]:
            return RecordedEngine

        self.monkeypatch.setattr(module, "get_engine", get)


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> Uses:
    return Uses(monkeypatch)


@given(
    height=st.integers(8, 100),
    width=st.integers(8, 100),
    channels=st.sampled_from([1, 3, 4]),
    passes=st.integers(1, 5),
    batch=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60)
def test_the_identity_returns_the_image(
    height: int, width: int, channels: int, passes: int, batch: int | None, seed: int
) -> None:
    pixels = np.random.default_rng(seed).random((channels, height, width), dtype=np.float32)
    kept = pixels.copy()
    with pytest.MonkeyPatch.context() as monkeypatch:
        uses = Uses(monkeypatch)
        uses(repeat_image)
        result = denoise_pixels(fake_model(channels), pixels, EnsembleOptions(passes=passes, batch=batch))
    assert np.array_equal(result.image, pixels)
    assert np.array_equal(pixels, kept), "the caller's image was changed"
    assert result.uncertainty.shape == pixels.shape
    assert result.uncertainty.max() < 1e-6
    assert result.image.dtype == result.uncertainty.dtype == np.float32
    assert result.image.flags.owndata or result.image.base is None or result.image.base.size <= pixels.size
    assert uses.last is not None
    padded = uses.last.image.shape[2:]
    assert all(size % 32 == 0 and size >= 64 for size in padded)
    assert result.passes == passes


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 200)])
def test_the_identity_returns_images_smaller_than_the_padding(uses: Uses, size: tuple[int, int]) -> None:
    uses(repeat_image)
    pixels = np.random.default_rng(0).random((3, *size), dtype=np.float32)
    assert np.array_equal(denoise_pixels(fake_model(), pixels, EnsembleOptions(passes=1)).image, pixels)


@pytest.mark.parametrize("fixed", [None, (128, 192)])
def test_a_budget_below_the_smallest_tiles_gives_one_note(uses: Uses, fixed: tuple[int, int] | None) -> None:
    """The note names the memory that is enough: with that budget there is no note."""
    uses(repeat_image)
    model = replace(fake_model(), size=fixed)
    pixels = np.random.default_rng(0).random((3, 120, 190), dtype=np.float32)

    def notes_for(memory: int | None) -> list[str]:
        notes: list[str] = []
        denoise_pixels(model, pixels, EnsembleOptions(passes=2, memory=memory), on_note=notes.append)
        return notes

    (note,) = notes_for(100 * 10**6)
    found = re.fullmatch(
        r"--memory allows 100 MB, and this takes about (\d+), in the smallest tiles that the model takes; going on\.",
        note,
    )
    assert found is not None
    enough = int(found[1]) + 1
    assert module.RESERVED_BYTES / 1e6 < enough < 1.2 * module.RESERVED_BYTES / 1e6
    assert notes_for(enough * 10**6) == notes_for(None) == []


def test_pixels_may_have_any_memory_layout_and_float_type(uses: Uses) -> None:
    uses(repeat_image)
    pixels = np.random.default_rng(0).random((70, 90, 3), dtype=np.float32)
    assert np.array_equal(
        denoise_pixels(fake_model(), pixels.transpose(2, 0, 1), EnsembleOptions(passes=1)).image,
        pixels.transpose(2, 0, 1),
    )
    eighths = (pixels * 8).astype(np.uint8).transpose(2, 0, 1) / 8.0
    assert np.array_equal(denoise_pixels(fake_model(), eighths, EnsembleOptions(passes=1)).image, eighths)


def test_the_result_stays_within_the_range(uses: Uses) -> None:
    def stretch(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        return 4 * repeat_image(image, masks) - 2

    uses(stretch)
    pixels = np.random.default_rng(0).random((3, 40, 40), dtype=np.float32)
    for restore in (False, True):
        image = denoise_pixels(fake_model(), pixels, EnsembleOptions(passes=2, restore=restore)).image
        assert 0 <= image.min() < image.max() <= 1
        if not restore:
            np.testing.assert_allclose(image, np.clip(4 * pixels - 2, 0, 1), atol=1e-6)


def test_the_network_sees_no_outliers_and_the_result_keeps_them(uses: Uses) -> None:
    seen: list[FloatArray] = []

    def look(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        seen.append(image)
        return repeat_image(image, masks)

    uses(look)
    pixels = np.random.default_rng(0).random((3, 40, 40), dtype=np.float32)
    pixels[0, 3:5, 4:6], pixels[2, 30:32, 35:37] = [[17, 9], [9, 4]], [[-5, -2], [-2, -2]]
    before = pixels.copy()
    image = denoise_pixels(fake_model(), pixels, EnsembleOptions(passes=2)).image
    assert (min(x.min() for x in seen), max(x.max() for x in seen)) == (0, 1)
    # This network predicts its input, so its predictions support every outlier.
    assert np.array_equal(image, before)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("may_overwrite", [False, True])
def test_hot_pixels_do_not_affect_the_result(uses: Uses, may_overwrite: bool) -> None:
    uses(hide_pixels)
    clean = np.random.default_rng(0).uniform(0.5, 0.7, (3, 40, 40)).astype(np.float32)
    noisy = clean.copy()
    noisy[0, 3, 4], noisy[2, 0, 39], noisy[2, 30, 35] = 17, 2.9, -5
    before = noisy.copy()
    image = denoise_pixels(fake_model(), noisy, EnsembleOptions(passes=4), may_overwrite=may_overwrite).image
    for channel, row, column in ((0, 3, 4), (2, 0, 39), (2, 30, 35)):
        around = np.pad(clean[channel], 1, mode="reflect")[row : row + 3, column : column + 3].ravel()
        clean[channel, row, column] = np.median(np.delete(around, 4))
    np.testing.assert_array_equal(image, denoise_pixels(fake_model(), clean, EnsembleOptions(passes=4)).image)
    assert may_overwrite or np.array_equal(noisy, before)


@pytest.mark.parametrize(
    ("recipe", "restore", "kept"),
    [
        ("fast", None, True),
        ("", None, True),
        ("paper-polyu", None, False),
        ("fast", False, False),
        ("paper", True, True),
    ],
)
def test_local_means_are_restored_except_for_the_paper_recipes(
    uses: Uses, recipe: str, restore: bool | None, kept: bool
) -> None:
    shift = np.float32(0.01)

    def too_light(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        return repeat_image(image, masks) + shift

    uses(too_light)
    pixels = np.random.default_rng(0).uniform(0.1, 0.9, (3, 70, 40)).astype(np.float32)
    model = fake_model()
    model = replace(model, contract=replace(model.contract, recipe=recipe))
    image = denoise_pixels(model, pixels.copy(), EnsembleOptions(passes=1, restore=restore)).image
    np.testing.assert_allclose(image, pixels if kept else pixels + shift, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "restore", "share"), [("fast", None, 0.8), ("fast", False, 0.0), ("paper", None, 0.0)]
)
def test_the_result_contains_the_noisy_share_of_the_image(
    uses: Uses, recipe: str, restore: bool | None, share: float
) -> None:
    wrong = np.float32(0.1) * (-1) ** np.add.outer(np.arange(96), np.arange(64))

    def with_pattern(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        return repeat_image(image, masks) + wrong

    uses(with_pattern)
    model = fake_model()
    model = replace(model, contract=replace(model.contract, recipe=recipe, noisy_share=0.8))
    pixels = np.random.default_rng(0).uniform(0.2, 0.8, (3, 96, 64)).astype(np.float32)
    pixels[0, 40, 30] = 1.5
    image = denoise_pixels(model, pixels.copy(), EnsembleOptions(passes=1, restore=restore)).image
    np.testing.assert_allclose(
        np.delete(image - pixels, 40, axis=1), (1 - share) * np.delete(wrong, 40, axis=0)[None].repeat(3, 0), atol=1e-4
    )
    assert image[0, 40, 30] > 1


@pytest.mark.parametrize("name", ["ort", "torch"])
def test_mean_and_uncertainty_equal_those_of_single_passes(tiny: Fitted, tiny_model: Model, name: str) -> None:
    import torch

    passes, seed = 6, 11
    pixels = np.random.default_rng(2).random((3, 50, 70), dtype=np.float32)
    options = EnsembleOptions(
        engine=name, passes=passes, balanced=False, flips=False, batch=4, seed=seed, restore=False
    )
    result = denoise_pixels(tiny_model, pixels, options)

    # Pad 50 to 64 rows and 70 to 96 columns with numpy alone.
    padded = torch.from_numpy(np.pad(pixels, [(0, 0), (7, 7), (13, 13)], mode="reflect")[None])
    maker = MaskMaker(tiny.contract.masks, {"H": 64, "W": 96}, seed, draws=Draws.PAIRED)
    predictions = []
    with torch.inference_mode():
        for index in range(passes):
            masks = maker.make(index, 1)
            ordered = [torch.from_numpy(masks[spec.name]) for spec in tiny.contract.masks]
            predictions.append(tiny.network(padded, *ordered).numpy()[0, :, 7:57, 13:83].astype(np.float64))
    deviation = np.std(predictions, axis=0, ddof=1)
    np.testing.assert_allclose(result.image, np.clip(np.mean(predictions, axis=0), 0, 1), rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.uncertainty, deviation, rtol=0, atol=1e-4)
    assert deviation.max() > 0.01
    # The standard error also counts the padding, which is a reflection of the image.
    expected = 255 * np.sqrt(np.mean(deviation**2) / passes)
    assert result.standard_error == pytest.approx(expected, rel=0.3)
    assert (result.engine, result.passes, result.batch, result.seed) == (name, passes, 4, seed)
    assert result.provider == {"ort": "CPUExecutionProvider", "torch": "PyTorch CPU"}[name]
    assert set(result.seconds) == {"prepare", "masks", "passes", "reduce"}
    assert all(seconds > 0 for seconds in result.seconds.values())
    spent = sum(result.seconds[key] for key in ("masks", "passes", "reduce"))
    assert result.passes_per_second == pytest.approx(passes / spent)


def test_progress_is_reported_after_every_run(uses: Uses) -> None:
    uses(hide_pixels)
    seen: list[int] = []

    def on_progress(moments: Moments) -> None:
        seen.append(moments.count)

    denoise_pixels(
        fake_model(), np.zeros((3, 20, 20), np.float32), EnsembleOptions(passes=7, batch=3), on_progress=on_progress
    )
    assert seen == [3, 6, 7]


@pytest.mark.parametrize(
    ("fitted", "image", "text"),
    [
        (3, 1, r"the image has 1 channel \(grey\) and fake.onnx was fitted on 3 channels \(RGB\)"),
        (1, 3, r"the image has 3 channels \(RGB\) and fake.onnx was fitted on 1 channel \(grey\)"),
        (3, 4, r"the image has 4 channels \(CMYK\)"),
        (3, 2, r"the image has 2 channels and"),
    ],
)
def test_another_number_of_channels_is_refused(fitted: int, image: int, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        denoise_pixels(fake_model(fitted), np.zeros((image, 20, 20), np.float32))
    assert str(caught.value).endswith("self2self denoise IMAGE")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (np.zeros((20, 20), np.float32), r"shape \(20, 20\); expected \(channels, height, width\)"),
        (np.zeros((1, 3, 20, 20), np.float32), r"shape \(1, 3, 20, 20\)"),
        (np.zeros((3, 0, 20), np.float32), "at least one pixel"),
        (np.zeros((3, 20, 20), np.uint8), r"pixels are uint8; expected floats, with most values in \[0, 1\]"),
        (np.full((3, 20, 20), np.nan, np.float32), "not finite"),
        (np.where(np.arange(1200).reshape(3, 20, 20) == 7, np.inf, 0.5).astype(np.float32), "not finite"),
    ],
)
def test_arrays_that_are_no_image_are_refused(pixels: FloatArray, text: str) -> None:
    with pytest.raises(InputError, match=text):
        denoise_pixels(fake_model(), pixels)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"passes": "2"}, "--passes is '2'; expected an integer."),
        ({"passes": 2.5}, "--passes is 2.5; expected an integer."),
        ({"batch": "auto"}, "--batch is 'auto'; expected an integer."),
        ({"memory": "2GB"}, "--memory is '2GB'; expected an integer."),
        ({"seed": 1.5}, "--seed is 1.5; expected an integer."),
        ({"tolerance": "x"}, "--tolerance is 'x'; expected a number."),
        ({"flips": "yes"}, "--flips is 'yes'; expected True or False."),
    ],
)
def test_options_of_a_wrong_type_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        EnsembleOptions(**options).check_values()
    assert str(caught.value) == text


def test_numbers_of_numpy_are_integers() -> None:
    EnsembleOptions(passes=np.int64(5), batch=np.int32(2), seed=np.uint8(3)).check_values()


@pytest.mark.parametrize(
    ("batch", "seed", "text"),
    [
        (0, 0, "--batch is 0; expected at least 1, or auto."),
        (None, -1, "--seed is -1; expected 0 to 4294967295."),
    ],
)
def test_batch_and_seed_out_of_range_are_refused(batch: int | None, seed: int, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        EnsembleOptions(batch=batch, seed=seed).check_values()
    assert str(caught.value) == text
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError):
        denoise_pixels(
            fake_model(), np.zeros((3, 20, 20), np.float32), EnsembleOptions(passes=1, batch=batch, seed=seed)
        )


def test_batch_and_seed_at_the_ends_of_their_ranges_are_accepted() -> None:
    EnsembleOptions().check_values()
    EnsembleOptions(batch=1, seed=2**32 - 1).check_values()


def test_the_engine_is_closed_at_the_end(uses: Uses) -> None:
    uses(hide_pixels)
    denoise_pixels(fake_model(), np.zeros((3, 20, 20), np.float32), EnsembleOptions(passes=1))
    assert uses.last is not None
    assert uses.last.closed == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_engine_is_closed_when_a_pass_fails(uses: Uses, error: type[BaseException]) -> None:
    def fail(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        raise error

    uses(fail)
    with pytest.raises(error):
        denoise_pixels(fake_model(), np.zeros((3, 20, 20), np.float32), EnsembleOptions(passes=3))
    assert uses.last is not None
    assert uses.last.closed == 1


def test_the_engine_is_closed_when_it_cannot_be_prepared() -> None:
    class Broken(FakeEngine):
        def prepare(self) -> None:
            raise RuntimeError("half way")

    engine = Broken(fake_model(), np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(RuntimeError, match="half way"):
        engine.__enter__()
    assert engine.closed == 1
