"""The ensemble with masks of the host: independence of the batch, memory, kinds of masks, and its end."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from self2self.errors import FileFormatError
from self2self.imaging.orientation import MIRROR_ORIENTATIONS, oriented
from self2self.model.masks import PASSES_PER_BLOCK, BoolArray, Draws
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.ensemble.host_loop import PassTooLarge, expected_passes, not_finite_error, run_ensemble
from self2self.runtime.ensemble.moments import Moments
from self2self.runtime.ensemble.pass_plan import PassPlan
from tests.runtime.fakes import SIZE, fake_engine, fake_maker, fake_model, hide_pixels, repeat_image


def test_the_batch_does_not_change_the_result() -> None:
    passes = 23
    results = {b: run_ensemble(fake_engine(), fake_maker(), passes, batch=b).moments for b in (1, 2, 5, 23, 40)}
    results[0] = run_ensemble(fake_engine(), fake_maker(), passes).moments
    for moments in results.values():
        assert moments.count == passes
        np.testing.assert_allclose(moments.mean(), results[1].mean(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(moments.standard_deviation(), results[1].standard_deviation(), rtol=0, atol=1e-6)


def test_every_pass_has_its_own_masks() -> None:
    moments = run_ensemble(fake_engine(), fake_maker(seed=3), 6, batch=4).moments
    image = fake_engine().image
    rows = [hide_pixels(image, fake_maker(seed=3).make(index, 1))[0].copy() for index in range(6)]
    np.testing.assert_allclose(moments.mean(), np.mean(rows, axis=0), rtol=0, atol=1e-6)


def test_the_seed_decides_the_result() -> None:
    first, again, other = (run_ensemble(fake_engine(), fake_maker(seed), 5).moments.mean() for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_engine_may_reuse_the_memory_of_its_result() -> None:
    held = np.empty((4, 3, SIZE, SIZE), np.float32)

    def reuse(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        predictions = hide_pixels(image, masks)
        held[: len(predictions)] = predictions
        return held[: len(predictions)]

    expected = run_ensemble(fake_engine(), fake_maker(), 10, batch=4).moments.mean()
    assert np.array_equal(run_ensemble(fake_engine(reuse), fake_maker(), 10, batch=4).moments.mean(), expected)


def peak_bytes(passes: int) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        run_ensemble(fake_engine(), fake_maker(), passes, batch=2)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_passes() -> None:
    peak_bytes(4)
    one_image = 3 * SIZE * SIZE * 4
    assert abs(peak_bytes(1000) - peak_bytes(50)) < one_image


def test_the_error_for_predictions_that_are_not_finite_names_half_precision() -> None:
    model = fake_model()
    half = replace(model, contract=replace(model.contract, precision="fp16"))
    assert "fp16 is too narrow for this image. Use the float32 model: --precision fp32" in str(not_finite_error(half))
    assert "the fit diverged" in str(not_finite_error(model))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_not_finite_end_the_run_at_once(bad: float) -> None:
    def predict(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        predictions = hide_pixels(image, masks)
        predictions[0, 0, 3, 5] = bad
        return predictions

    engine = fake_engine(predict)
    with pytest.raises(FileFormatError, match=r"fake\.onnx: predicts numbers that are not finite.*self2self fit"):
        run_ensemble(engine, fake_maker(), 500)
    assert len(engine.counts) == 1


class Stop(Exception):  # noqa: N818 - not an error
    pass


def test_an_exception_from_progress_ends_the_run() -> None:
    seen: list[int] = []

    def on_progress(moments: Moments) -> None:
        seen.append(moments.count)
        if moments.count >= 6:
            raise Stop

    engine = fake_engine()
    with pytest.raises(Stop):
        run_ensemble(engine, fake_maker(), 500, batch=2, on_progress=on_progress)
    assert seen == [2, 4, 6]
    assert sum(engine.counts) == 6


def test_flips_average_over_the_mirrored_image() -> None:
    """The engine adds a ramp, whose average over all orientations is a constant."""
    ramp = np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    images = []

    def predict(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
        images.append(image.copy())
        return np.repeat(image + ramp, len(masks["input_mask"]), axis=0)

    engine = fake_engine(predict)
    upright = engine.image.copy()
    pass_plan = PassPlan(MIRROR_ORIENTATIONS * PASSES_PER_BLOCK, tolerance=None, balanced=False, flips=True)
    moments = run_ensemble(engine, fake_maker(), pass_plan, batch=4).moments
    np.testing.assert_allclose(moments.mean(), upright[0] + 0.5, atol=1e-5)
    assert engine.counts == [4, 4, 2] * MIRROR_ORIENTATIONS
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image, oriented(upright, index // 3))
    np.testing.assert_array_equal(engine.image, upright)


def test_a_mirrored_image_that_does_not_fit_is_tried_again_with_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine(repeat_image)
    notes: list[str] = []
    engine.note = notes.append
    failures = iter([True])
    used = []

    def use_image() -> None:
        if next(failures, False):
            raise MemoryError
        used.append(engine.image)

    monkeypatch.setattr(engine, "_use_image", use_image)
    pass_plan = PassPlan(MIRROR_ORIENTATIONS * PASSES_PER_BLOCK, tolerance=None, balanced=False, flips=True)
    moments = run_ensemble(engine, fake_maker(), pass_plan, batch=4).moments
    assert engine.counts == [4, 4, 2] + [2] * 5 * (MIRROR_ORIENTATIONS - 1)
    assert notes == ["out of memory; going on with 2 passes at a time."]
    np.testing.assert_allclose(moments.mean(), engine.image[0], atol=1e-6)
    # The engine used every orientation, and the upright image in the end.
    assert [image.tobytes() for image in used] == [
        oriented(engine.image, index % MIRROR_ORIENTATIONS).tobytes() for index in range(1, MIRROR_ORIENTATIONS + 1)
    ]

    # If even a single pass does not fit, the caller may try smaller tiles.
    failures = iter([True] * 3)
    with pytest.raises(PassTooLarge):
        run_ensemble(engine, fake_maker(), pass_plan, batch=2)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("draws", Draws)
def test_the_batch_does_not_change_the_result_for_any_draws_and_flips(draws: Draws, flips: bool) -> None:
    results = []
    for batch in (1, 3, 8, None):
        maker = fake_maker(draws=draws)
        pass_plan = PassPlan(57, tolerance=None, balanced=draws is Draws.BALANCED, flips=flips)
        results.append(run_ensemble(fake_engine(), maker, pass_plan, batch=batch).moments)
    for moments in results[1:]:
        np.testing.assert_allclose(moments.mean(), results[0].mean(), rtol=0, atol=1e-6)
        assert moments.standard_error() == pytest.approx(results[0].standard_error(), rel=1e-6)


def test_balanced_masks_lower_the_error_of_a_linear_network_almost_to_zero() -> None:
    def error(balanced: bool) -> float:
        pass_plan = PassPlan(40, tolerance=None, balanced=balanced, flips=False)
        maker = fake_maker(draws=Draws.BALANCED if balanced else Draws.PAIRED)
        return run_ensemble(fake_engine(), maker, pass_plan).moments.standard_error()

    # Shifts are rounded to whole bytes, so with a drop rate of one half the error is almost zero, but not exactly.
    assert error(balanced=True) < 0.1 * error(balanced=False)


@pytest.mark.parametrize("flips", [False, True])
def test_auto_ends_at_the_first_block_within_the_tolerance(flips: bool) -> None:
    errors: dict[int, float] = {}
    totals: dict[int, int] = {}
    pass_plan = PassPlan(2000, tolerance=6.0, balanced=False, flips=flips)

    def on_progress(moments: Moments) -> None:
        errors[moments.count] = moments.standard_error()
        totals[moments.count] = expected_passes(pass_plan, moments)

    result = run_ensemble(fake_engine(), fake_maker(), pass_plan, batch=2, on_progress=on_progress)
    fewest = PASSES_PER_BLOCK * (MIRROR_ORIENTATIONS + 1 if flips else 2)
    count = result.moments.count
    assert count % PASSES_PER_BLOCK == 0
    assert fewest <= count < 2000
    assert errors[count] <= 6.0
    assert all(errors[at] > 6.0 for at in range(fewest, count, PASSES_PER_BLOCK))
    assert totals[2] == fewest
    assert totals[count] == count
    assert all(at <= total <= 2000 for at, total in totals.items())


def test_auto_ends_at_the_largest_number_of_passes() -> None:
    pass_plan = PassPlan(70, tolerance=1e-9, balanced=False, flips=False)
    assert run_ensemble(fake_engine(), fake_maker(), pass_plan).moments.count == 70
