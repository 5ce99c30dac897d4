"""Shifts by parts, compared with the shifts that the frames were made with."""

from __future__ import annotations

import numpy as np
import pytest

from self2self.imaging.registration import motion, moved_by, shifted
from tests.imaging.scenes import noisy, other_view, view


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-17, 20)])
def test_a_known_shift_is_found_in_noise(shift: tuple[int, int]) -> None:
    page, other = noisy(view(), 0), noisy(view(60 - shift[0], 190 - shift[1]), 1)
    found = motion(page, other)
    right = (found[0] == shift[0]) & (found[1] == shift[1])
    assert right[20:-20, 20:-20].mean() > 0.95


def test_contrast_and_brightness_do_not_matter() -> None:
    found = motion(noisy(view(), 0), 0.5 * noisy(view(57, 192), 1) + 2)
    assert np.mean((found[0] == 3) & (found[1] == -2)) > 0.9


def test_parts_that_move_apart_have_shifts_of_their_own() -> None:
    page, other = view(100, 100, 256), view(98, 100, 256)
    page[:, 20:116, 30:126] = other_view()[:, :96, :96]
    other[:, 17:113, 34:130] = other_view()[:, :96, :96]
    found = motion(noisy(page, 0), noisy(other, 1))
    inside, outside = found[:, 40:96, 50:106], found[:, 150:240, 10:-10]
    assert np.mean((inside[0] == -3) & (inside[1] == 4)) > 0.5
    assert np.mean((outside[0] == 2) & (outside[1] == 0)) > 0.8


def test_pure_noise_is_not_matched_to_itself() -> None:
    flat = np.full((1, 128, 128), 0.5, np.float32)
    page, other = noisy(flat, 0), noisy(flat, 1)
    moved, _ = moved_by(other, motion(page, other))
    correlation = np.corrcoef((page - flat).ravel(), (moved - flat).ravel())[0, 1]
    assert abs(correlation) < 0.04


def test_moving_is_a_lookup() -> None:
    image = np.arange(2 * 9 * 11, dtype=np.float32).reshape(2, 9, 11)
    shifts = np.random.default_rng(0).integers(-4, 5, (2, 9, 11))
    moved, inside = moved_by(image, shifts)
    for y, x in np.ndindex(9, 11):
        row, column = y + shifts[0, y, x], x + shifts[1, y, x]
        assert inside[y, x] == (0 <= row < 9 and 0 <= column < 11)
        np.testing.assert_array_equal(moved[:, y, x], image[:, np.clip(row, 0, 8), np.clip(column, 0, 10)])


@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (-8, 1), (9, 0), (0, -40)])
def test_one_shift_for_all_is_the_same_lookup(shift: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((9, 11)).astype(np.float32)
    moved, inside = shifted(image, shift)
    shifts = np.broadcast_to(np.array(shift)[:, None, None], (2, 9, 11))
    expected, expected_inside = moved_by(image, shifts)
    np.testing.assert_array_equal(inside, expected_inside)
    np.testing.assert_array_equal(moved[inside], expected[inside])


@pytest.mark.parametrize("size", [(8, 8), (8, 300), (65, 64)])
def test_any_size_can_be_registered(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((3, *size)).astype(np.float32)
    assert motion(image, image).shape == (2, *size)
    assert not motion(image, image).any()


def test_constant_images_stay_where_they_are() -> None:
    assert not motion(np.full((1, 32, 32), 0.3, np.float32), np.full((1, 32, 32), 0.6, np.float32)).any()
