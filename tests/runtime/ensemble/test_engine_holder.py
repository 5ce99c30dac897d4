"""One engine for images of one size, and never two engines at a time."""

from __future__ import annotations

import numpy as np
import pytest

from self2self.errors import ResourceError
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.options import EnsembleOptions
from tests.runtime.fakes import FakeEngine, IdentityEngine, fake_model, use_engine


def test_one_engine_serves_images_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made = use_engine(monkeypatch, IdentityEngine)
    model = fake_model()
    rng = np.random.default_rng(0)
    with EngineHolder() as engine_holder:
        for count, size in ((1, (60, 90)), (1, (64, 96)), (2, (64, 128)), (3, (64, 96))):
            pixels = rng.random((3, *size), dtype=np.float32)
            assert np.array_equal(
                denoise_pixels(model, pixels, EnsembleOptions(passes=1), engine_holder=engine_holder).image, pixels
            )
            assert len(made) == count
            assert [engine.closed for engine in made] == [1] * (count - 1) + [0], "two engines at a time"
    assert made[-1].closed == 1


def test_if_memory_is_short_the_engine_is_closed_before_the_result_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = use_engine(monkeypatch, FakeEngine)
    model = fake_model()
    with EngineHolder() as engine_holder:
        for memory, closed in ((10**9, 0), (1, 1)):
            pixels = np.ones((3, 64, 96), np.float32)
            denoise_pixels(
                model, pixels, EnsembleOptions(passes=1, memory=memory), may_overwrite=True, engine_holder=engine_holder
            )
            assert [engine.closed for engine in made] == [closed]


def test_an_engine_that_fails_to_prepare_is_not_kept() -> None:
    class Broken(FakeEngine):
        def prepare(self) -> None:
            raise RuntimeError("half way")

    model, image = fake_model(), np.zeros((1, 3, 64, 64), np.float32)
    with EngineHolder() as engine_holder:
        with pytest.raises(RuntimeError, match="half way"):
            engine_holder.engine_for(Broken, model, image, print)
        working = engine_holder.engine_for(FakeEngine, model, image, print)
        assert engine_holder.engine_for(FakeEngine, model, image + 1, print) is working
        assert (working.image == 1).all()
        engine_holder.close()
        assert working.closed == 1  # type: ignore[attr-defined]


def test_too_little_memory_to_prepare_an_engine_is_an_error() -> None:
    class Large(FakeEngine):
        def prepare(self) -> None:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    engine = Large(fake_model(), np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(ResourceError, match=r"^out of memory while loading fake\.onnx\. Close other programs"):
        engine.__enter__()
    assert engine.closed == 1
