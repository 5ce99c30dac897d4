"""Axes of arrays: guesses from the shape, letters, channel axes, and the way to pages and back."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from self2self.arrays.axes import Layout, as_numpy, axes_of
from self2self.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((64, 48), "YX"),
        ((64, 48, 3), "YXS"),
        ((64, 48, 4), "YXS"),
        ((64, 48, 1), "YXS"),
        ((5, 64, 48), "TYX"),
        ((5, 64, 48, 3), "TYXS"),
        ((2, 5, 64, 48), "TZYX"),
        ((2, 5, 64, 48, 3), "TZYXS"),
    ],
)
def test_the_shape_tells_ordinary_axes(shape: tuple[int, ...], axes: str) -> None:
    assert axes_of(np.empty(shape), shape, None, None) == axes


@pytest.mark.parametrize(
    ("shape", "channel_axis", "axes"),
    [
        ((64, 48, 3), -1, "YXC"),
        ((2, 64, 48), 0, "CYX"),
        ((5, 2, 64, 48), 1, "TCYX"),
        ((5, 7, 64, 48, 2), 4, "TZYXC"),
    ],
)
def test_a_channel_axis_is_c(shape: tuple[int, ...], channel_axis: int, axes: str) -> None:
    assert axes_of(np.empty(shape), shape, None, channel_axis) == axes


def test_names_of_dimensions_count_if_they_are_letters() -> None:
    named = SimpleNamespace(dims=("c", "y", "x"))
    assert axes_of(named, (3, 64, 48), None, None) == "CYX"  # type: ignore[arg-type]
    named.dims = ("band", "lat", "lon")
    assert axes_of(named, (3, 64, 48), None, None) == "TYX"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "axes", "channel_axis", "message"),
    [
        ((64,), None, None, "expected at least rows and columns"),
        ((2, 3, 4, 64, 48), None, None, "say which axis is which"),
        ((64, 48), "ZYX", None, "has 3 letters; the array has 2 axes"),
        ((5, 64, 48), "QYX", None, "expected Y, X and others of"),
        ((5, 64, 48), "YYX", None, "each once"),
        ((5, 64, 48), "TZY", None, "expected Y, X"),
        ((2, 64, 48), "SYX", None, "S has 2 samples"),
        ((5, 64, 48), "CYX", 0, "give one of them"),
        ((64, 48), None, 2, "channel-axis is 2; the array has 2 axes"),
    ],
)
def test_wrong_axes_are_refused(
    shape: tuple[int, ...], axes: str | None, channel_axis: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        axes_of(np.empty(shape), shape, axes, channel_axis)


@pytest.mark.parametrize("axes", ["YX", "XY", "YXS", "SYX", "TYX", "ZTYX", "TZCYX", "XYCZT", "CYX", "TCYXS"])
def test_pages_hold_the_planes_and_lead_back(axes: str) -> None:
    lengths = {"T": 2, "Z": 4, "C": 5, "S": 3, "Y": 6, "X": 7}
    layout = Layout(axes, tuple(lengths[letter] for letter in axes))
    array = np.random.default_rng(0).integers(0, 1000, layout.shape)
    pages = layout.pages_of(array)
    count = np.prod([lengths[letter] for letter in axes if letter in "TZ"], dtype=int)
    assert pages.shape == (count, layout.channels, 6, 7, layout.colours)
    # The last page of the last channel, by plain indexing.
    last = array[tuple(-1 if letter in "TZC" else slice(None) for letter in axes)]
    plane = "".join(letter for letter in axes if letter in "YXS")
    rows_first = np.moveaxis(last, [plane.index(letter) for letter in "YXS" if letter in plane], range(last.ndim))
    np.testing.assert_array_equal(pages[-1, -1], rows_first.reshape(6, 7, -1))
    np.testing.assert_array_equal(layout.array_of(pages), array)


def test_pages_are_in_the_order_of_the_axes() -> None:
    array = np.arange(6)[:, None, None].repeat(8, 1).repeat(8, 2).reshape(2, 3, 8, 8)
    assert Layout("TZYX", array.shape).pages_of(array)[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_numpy_can_convert_is_an_array() -> None:
    import torch

    values = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    tensor = torch.from_numpy(values.copy()).requires_grad_()
    for noisy in (values, values.tolist(), tensor, type("Lazy", (), {"__array__": lambda *_, **__: values})()):
        np.testing.assert_array_equal(as_numpy(noisy), values)


def test_a_masked_array_stays_one() -> None:
    masked = np.ma.masked_less(np.arange(64.0).reshape(8, 8), 3)
    assert as_numpy(masked) is masked


def test_what_is_no_array_is_refused_with_what_to_type() -> None:
    with pytest.raises(UsageError, match="denoise_job"):
        as_numpy("photo.png")
    with pytest.raises(InputError, match="cannot convert"):
        as_numpy([[1, 2], [3]])
