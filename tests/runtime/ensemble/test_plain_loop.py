"""The loop over the views of a plain model, alone and in tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from self2self.errors import EngineUnavailableError, FileFormatError, UsageError
from self2self.model.masks import BoolArray
from self2self.runtime.engines import registry
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.ensemble import denoise as denoising
from self2self.runtime.ensemble.host_loop import PassTooLarge
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.plain_loop import run_plain
from tests.runtime.fakes import FakeEngine, fake_model

PLAIN = replace(fake_model(1), contract=fake_model(1).contract.as_plain())


class Shifting(FakeEngine):
    """Predicts each pixel's right neighbour, which is another one in the mirrored view."""

    runs_plain = True

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        assert not masks
        return np.roll(self.image, -1, axis=3)


def image(height: int = 64, width: int = 96) -> FloatArray:
    return np.random.default_rng(0).random((1, 1, height, width), dtype=np.float32)


def test_the_mean_of_the_views() -> None:
    pixels, counts = image(), []
    engine = Shifting(PLAIN, pixels)
    result = run_plain(engine, (0, 3), on_progress=lambda mean: counts.append(mean.count))
    expected = (np.roll(pixels[0], -1, axis=2) + np.roll(pixels[0], 1, axis=2)) / 2
    np.testing.assert_allclose(result.moments.mean(), expected, rtol=1e-6)
    assert counts == [1, 2]
    assert np.isnan(result.moments.standard_error())
    np.testing.assert_array_equal(engine.image, pixels)


def test_large_images_are_cut_into_tiles_and_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoising, "get_engine", lambda name, *, plain_pixels: Shifting)
    monkeypatch.setattr(denoising, "LARGEST_PLAIN_TILE", 128)
    pixels = image(200, 300)[0]
    result = denoising.denoise_pixels(PLAIN, pixels, EnsembleOptions(restore=False))
    assert result.tiles > 1
    assert result.plain
    assert result.uncertainty is None
    # The half of the views that are mirrored along the rows shift the other way.
    expected = (np.roll(pixels, -1, axis=2) + np.roll(pixels, 1, axis=2)) / 2
    np.testing.assert_allclose(result.image[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-6)


def test_one_view_without_flips() -> None:
    assert EnsembleOptions(flips=False).pass_plan_for(PLAIN.contract, 64, 64).passes == 1
    assert EnsembleOptions().pass_plan_for(PLAIN.contract, 64, 64).passes == 4
    assert EnsembleOptions().pass_plan_for(PLAIN.contract, 4000, 6000).passes == 2
    assert EnsembleOptions(pages=100).pass_plan_for(PLAIN.contract, 512, 512).passes == 2
    assert EnsembleOptions(pages=2).pass_plan_for(PLAIN.contract, 512, 512).passes == 4
    with pytest.raises(UsageError, match="--passes 3 is about passes with masks"):
        EnsembleOptions(passes=3).pass_plan_for(PLAIN.contract, 64, 64)


def test_lack_of_memory_asks_for_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Shifting, masks: Mapping[str, BoolArray]) -> FloatArray:
        raise MemoryError

    monkeypatch.setattr(Shifting, "run", run)
    with pytest.raises(PassTooLarge, match="the network does not fit"):
        run_plain(Shifting(PLAIN, image()), (0, 3))


def test_predictions_have_to_be_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shifting, "run", lambda self, masks: np.full_like(self.image, np.nan))
    with pytest.raises(FileFormatError, match="not finite"):
        run_plain(Shifting(PLAIN, image()), (0, 3))


def test_an_engine_that_needs_masks_says_so() -> None:
    with pytest.raises(EngineUnavailableError, match="--engine fake does not run plain models"):
        FakeEngine(PLAIN, image())


def test_auto_is_an_engine_that_runs_plain_models() -> None:
    assert get_engine("auto", plain_pixels=0).runs_plain


def test_a_small_image_is_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few views, rounding errors are not averaged out, so low precision is for images that take long."""
    monkeypatch.setattr(registry, "AUTO", ("rounding", "exact"))
    rounding = type("Rounding", (Shifting,), {"rounds_to": "int8"})
    kinds = {"rounding": rounding, "exact": Shifting}
    monkeypatch.setattr(registry, "engine_class", kinds.__getitem__)
    assert get_engine("auto", plain_pixels=registry.ROUNDED_PIXELS - 1) is Shifting
    assert get_engine("auto", plain_pixels=registry.ROUNDED_PIXELS) is rounding
    assert get_engine("auto") is rounding


def test_tiles_tell_the_engine_of_the_whole_image_and_views_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Noting(Shifting):
        def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
            seen.append((self.whole_image, self.first_pass))
            return super().run(masks)

    monkeypatch.setattr(denoising, "get_engine", lambda name, *, plain_pixels: Noting)
    monkeypatch.setattr(denoising, "LARGEST_PLAIN_TILE", 128)
    pixels = image(200, 300)[0]
    tiles = denoising.denoise_pixels(PLAIN, pixels, EnsembleOptions(restore=False)).tiles
    assert [number for _, number in seen] == [0, 1, 2, 3] * tiles
    assert all(whole is pixels for whole, _ in seen)
    seen.clear()
    denoising.denoise_pixels(PLAIN, pixels[:, :64, :96], EnsembleOptions(restore=False))
    assert all(whole is None for whole, _ in seen)
