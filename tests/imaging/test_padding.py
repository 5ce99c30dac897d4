from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from self2self.imaging.padding import Padding, padded_size

SIDES = st.integers(8, 100)
DTYPES = st.sampled_from([np.bool_, np.uint8, np.uint16, np.float16, np.float32, np.float64])
LEADING = st.sampled_from([(), (3,), (2, 1)])


def reflected(position: int, size: int) -> int:
    """Return the pixel index at `position` of an image of `size` pixels that is mirrored at both edges without end."""
    period = 2 * (size - 1)
    position %= period
    return position if position < size else period - position


def sample(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2 if dtype is np.bool_ else 200, shape).astype(dtype)


@given(SIDES, SIDES, LEADING, DTYPES)
def test_crop_undoes_pad(height: int, width: int, leading: tuple[int, ...], dtype: type) -> None:
    image = sample((*leading, height, width), dtype)
    padding = Padding.for_size(height, width)
    padded = padding.pad(image)
    assert padded.dtype == image.dtype
    cropped = padding.crop(padded)
    assert cropped.shape == image.shape
    np.testing.assert_array_equal(cropped, image)
    assert np.shares_memory(cropped, padded)


@given(SIDES, SIDES)
def test_padded_sizes_are_the_least_that_the_network_takes(height: int, width: int) -> None:
    padding = Padding.for_size(height, width)
    for size, before, after in ((height, padding.top, padding.bottom), (width, padding.left, padding.right)):
        total = size + before + after
        assert total % 32 == 0
        assert total >= 64
        assert total - 32 < max(size, 64)
        assert 0 <= after - before <= 1


@given(SIDES, SIDES)
def test_padding_is_endless_reflection(height: int, width: int) -> None:
    image = sample((height, width), np.uint8)
    padding = Padding.for_size(height, width)
    padded = padding.pad(image)
    rows = [reflected(y - padding.top, height) for y in range(padded.shape[0])]
    columns = [reflected(x - padding.left, width) for x in range(padded.shape[1])]
    np.testing.assert_array_equal(padded, image[np.ix_(rows, columns)])


@given(st.integers(64, 100), st.integers(1, 50), st.integers(1, 200))
def test_other_multiples_and_minima(size: int, multiple: int, minimum: int) -> None:
    padding = Padding.for_size(size, size, multiple, minimum)
    total = size + padding.top + padding.bottom
    assert total >= size
    assert total >= minimum
    assert total == minimum or total % multiple == 0
    assert total - multiple < max(size, minimum)
    assert padded_size(size, size, multiple, minimum) == (total, total)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 128), (512, 64)])
def test_sizes_that_fit_are_left_alone(height: int, width: int) -> None:
    assert Padding.for_size(height, width) == Padding(0, 0, 0, 0)


def test_the_edge_pixel_is_not_repeated() -> None:
    row = np.array([[1, 2, 3]])
    assert Padding(0, 0, 2, 1).pad(row).tolist() == [[3, 2, 1, 2, 3, 2]]


def test_an_array_that_needs_no_padding_is_not_copied_unless_it_is_read_only() -> None:
    image = np.random.default_rng(0).random((3, 64, 96), np.float32)
    padding = Padding.for_size(64, 96)
    assert padding.pad(image) is image
    image.flags.writeable = False
    padded = padding.pad(image)
    assert padded.flags.writeable
    np.testing.assert_array_equal(padded, image)
