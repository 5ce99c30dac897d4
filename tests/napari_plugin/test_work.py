"""A part of a layer becomes layers: the values that `self2self.denoise` gives, and the attributes of the source."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import self2self
from self2self.napari_plugin.selection import LayerPart
from self2self.napari_plugin.settings import Settings
from self2self.napari_plugin.work import Outcome, Task, fit_options, perform
from tests.arrays.arrays import NO_STEPS
from tests.napari_plugin.parts import part_of, quick, values

__all__ = ["quick"]
FEW = Settings(passes=2)


def done(part: LayerPart, settings: Settings = FEW, **options: Any) -> Outcome:
    return perform(Task(part, settings, **options), lambda progress: None, threading.Event())


def denoised(array: np.ndarray, axes: str) -> np.ndarray:
    return self2self.denoise(array, axes=axes, passes=2, fit_options=NO_STEPS).image


@pytest.mark.usefixtures("quick")
class TestValues:
    def test_a_plane_of_a_stack_keeps_its_axes(self) -> None:
        data = values((3, 4, 40, 48))
        part = part_of(data, region=(slice(1, 2), slice(2, 3), slice(4, 40), slice(0, 44)))
        ((image, _, kind),) = done(part).layers
        assert (image.shape, kind) == ((1, 1, 36, 44), "image")
        np.testing.assert_array_equal(image[0, 0], denoised(data[1, 2, 4:40, :44], "YX"))

    def test_turned_axes_turn_back(self) -> None:
        data = values((2, 40, 48))
        ((image, *_),) = done(part_of(data.transpose(2, 0, 1), rows=2, columns=0)).layers
        np.testing.assert_array_equal(image.transpose(1, 2, 0), denoised(data, "TYX"))

    @pytest.mark.parametrize("channel", [0, 1, 3])
    def test_channels_are_where_the_layer_has_them(self, channel: int) -> None:
        data = np.stack([values((2, 40, 48)), values((2, 40, 48), seed=1) * 20])
        ((image, *_),) = done(part_of(np.moveaxis(data, 0, channel), channel=channel)).layers
        np.testing.assert_array_equal(np.moveaxis(image, channel, 0), denoised(data, "CTYX"))

    def test_more_axes_than_letters(self) -> None:
        data = values((2, 1, 2, 32, 40))
        ((image, *_),) = done(part_of(data)).layers
        np.testing.assert_array_equal(image.reshape(4, 32, 40), denoised(data.reshape(4, 32, 40), "TYX"))

    def test_colours_and_their_uncertainty(self) -> None:
        data = np.clip(values((40, 48, 3)), 0, 255).astype(np.uint8)
        (uncertainty, about, _), (image, _, _) = done(
            part_of(data, rgb=True), Settings(passes=4, uncertainty=True)
        ).layers
        result = self2self.denoise(data, axes="YXS", passes=4, uncertainty=True, fit_options=NO_STEPS)
        np.testing.assert_array_equal(image, result.image)
        assert result.uncertainty is not None
        np.testing.assert_allclose(uncertainty**2, (result.uncertainty**2).sum(axis=2) / 3, rtol=1e-5)
        assert about["visible"] is False

    def test_a_part_of_a_dask_array_is_all_that_is_computed(self) -> None:
        array = pytest.importorskip("dask.array")
        delayed = pytest.importorskip("dask").delayed
        data = values((3, 40, 48))

        def page(index: int) -> np.ndarray:
            assert index == 1
            return data[index]

        lazy = array.stack([array.from_delayed(delayed(page)(index), (40, 48), data.dtype) for index in range(3)])
        part = part_of(lazy, region=(slice(1, 2), slice(0, 40), slice(0, 48)))
        ((image, *_),) = done(part).layers
        np.testing.assert_array_equal(image[0], denoised(data[1], "YX"))


@pytest.mark.usefixtures("quick")
def test_what_the_layer_is_goes_along() -> None:
    outcome = done(part_of(values((40, 48))), Settings(passes=4, uncertainty=True))
    (uncertainty, second, _), (_, first, _) = outcome.layers
    assert first["name"] == "cells denoised"
    assert {name: first[name] for name in ("colormap", "contrast_limits")} == {
        "colormap": "green",
        "contrast_limits": (1, 9),
    }
    for attributes in (first, second):
        assert (attributes["scale"], attributes["translate"]) == ((2.0, 2.0), (5.0, 5.0))
        assert attributes["metadata"]["lens"] == "63x"
        assert 10 < attributes["metadata"]["self2self"]["sigma"] < 30
    low, high = second["contrast_limits"]
    assert low == 0 and np.mean(uncertainty <= high) > 0.99
    assert "noise found" in outcome.message and not outcome.failed


@pytest.mark.usefixtures("quick")
def test_a_preview_says_so() -> None:
    ((_, attributes, _),) = done(part_of(values((40, 48))), preview=True).layers
    assert attributes["name"] == "cells preview"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16, np.float64])
@pytest.mark.usefixtures("quick")
def test_the_type_stays(dtype: type) -> None:
    ((image, *_),) = done(part_of(values((40, 48)).clip(0, 255).astype(dtype))).layers
    assert image.dtype == dtype


@pytest.mark.usefixtures("quick")
def test_a_constant_image_and_missing_values() -> None:
    outcome = done(part_of(np.full((20, 30), 7, np.uint16)), Settings(passes=2, uncertainty=True))
    (uncertainty, attributes, _), (image, *_) = outcome.layers
    assert (image == 7).all() and not uncertainty.any()
    assert attributes["contrast_limits"][1] > 0
    holed = values((40, 48))
    holed[:5] = np.nan
    ((image, *_),) = done(part_of(holed)).layers
    assert np.isnan(image[:5]).all() and np.isfinite(image[5:]).all()


class Unreadable:
    """Data of a layer whose file has gone."""

    ndim, shape = 2, (40, 48)

    def __getitem__(self, region: object) -> None:
        raise FileNotFoundError("no such file: a.zarr/0.0\nand more")


class TooLarge(Unreadable):
    def __getitem__(self, region: object) -> None:
        raise MemoryError


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((20, 20), bool), "cells: .*bool"),
        (np.zeros((1, 50)), r"cells: is 50x1 pixels; expected at least 8x8"),
        (np.zeros((20, 20), np.complex64), "cells: .*complex64"),
        (Unreadable(), r"cells: could not be read \(no such file: a.zarr/0.0\)\.$"),
        (TooLarge(), "cells: memory ran out"),
    ],
)
def test_what_a_user_can_cause_is_one_line(data: Any, message: str) -> None:
    outcome = done(part_of(data))
    assert outcome.failed and not outcome.layers
    assert outcome.message.count("\n") == 0
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(outcome.message)


def test_a_bug_is_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("self2self.arrays.denoise.denoise", broken)
    with pytest.raises(ZeroDivisionError):
        done(part_of(values((40, 48))))


def cancelled_after(steps: int) -> tuple[Callable[[Any], None], threading.Event, list[Any]]:
    cancel, seen = threading.Event(), []

    def progress(at: Any) -> None:
        seen.append(at)
        if len(seen) == steps:
            cancel.set()

    if not steps:
        cancel.set()
    return progress, cancel, seen


@pytest.mark.parametrize("steps", [0, 1])
def test_cancelling_ends_it_without_an_error(steps: int) -> None:
    progress, cancel, seen = cancelled_after(steps)
    outcome = perform(Task(part_of(values((40, 48))), FEW), progress, cancel)
    assert outcome == Outcome(message="cancelled")
    assert len(seen) == steps


def test_the_settings_reach_the_fit() -> None:
    assert (fit_options(Settings()).init, fit_options(Settings()).fit_pages) == (None, "first")
    assert (fit_options(Settings("each", scratch=True)).init, fit_options(Settings("each")).fit_pages) == (
        "scratch",
        "each",
    )


def test_messages_name_options_by_the_labels_of_the_controls() -> None:
    part = part_of(values((40, 48)))
    outcome = done(part, Settings(strength=9))
    assert outcome.message.startswith("Strength is 9; expected ")
