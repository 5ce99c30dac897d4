"""Fake models, engines and mask makers without a network, for tests of the code that uses engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from self2self.model.contract import INPUT_MASK, Contract, MaskSpec
from self2self.model.masks import BoolArray, Draws, MaskMaker
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.ensemble import denoise
from self2self.runtime.model import Model

SIZE = 64
Predict = Callable[[FloatArray, Mapping[str, BoolArray]], FloatArray]


def fake_model(channels: int = 3, keep_count: int = 128) -> Model:
    """A model without a file, whose only mask is the input mask."""
    return Model(Path("fake.onnx"), Contract(channels, (MaskSpec(INPUT_MASK, (channels, "H", "W"), keep_count),)))


def hide_pixels(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
    """The prediction of a network without layers: the masked image."""
    return image * masks[INPUT_MASK]


def repeat_image(image: FloatArray, masks: Mapping[str, BoolArray]) -> FloatArray:
    """The prediction of the identity: the image itself, for each pass."""
    return np.repeat(image, len(masks[INPUT_MASK]), axis=0)


class FakeEngine(Engine):
    """Predicts with a numpy function; records the batch sizes in `counts` and the calls of `close` in `closed`."""

    name = "fake"
    predict: Predict = staticmethod(hide_pixels)

    def __init__(self, model: Model, image: FloatArray) -> None:
        super().__init__(model, image)
        self.counts: list[int] = []
        self.closed = 0

    @classmethod
    def version(cls) -> str:
        return "fake 1"

    def prepare(self) -> None:
        pass

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        self.counts.append(len(masks[INPUT_MASK]))
        return self.predict(self.image, masks)

    def close(self) -> None:
        self.closed += 1


class IdentityEngine(FakeEngine):
    """A fake engine that predicts the image itself."""

    predict = staticmethod(repeat_image)


def use_engine(patch: pytest.MonkeyPatch, engine: type[FakeEngine]) -> list[FakeEngine]:
    """Make `denoise_pixels` use `engine`; the returned list gets every instance that it creates."""
    instances: list[FakeEngine] = []

    class RecordedEngine(engine):  # type: ignore[valid-type, misc]
        def __init__(self, model: Model, image: FloatArray) -> None:
            super().__init__(model, image)
            instances.append(self)

    patch.setattr(denoise, "get_engine", lambda _, *, plain_pixels: RecordedEngine)
    return instances


def fake_engine(predict: Predict = hide_pixels, channels: int = 3, seed: int = 0) -> FakeEngine:
    """A fake engine with a random image of `SIZE` x `SIZE`."""
    image = np.random.default_rng(seed).random((1, channels, SIZE, SIZE), dtype=np.float32)
    engine = FakeEngine(fake_model(channels), image)
    engine.predict = predict  # type: ignore[method-assign]
    return engine


def fake_maker(seed: int = 0, channels: int = 3, *, draws: Draws = Draws.OWN) -> MaskMaker:
    """A mask maker for `fake_model` with an image of `SIZE` x `SIZE`."""
    return MaskMaker(fake_model(channels).contract.masks, {"H": SIZE, "W": SIZE}, seed, draws=draws)
