"""Tiles: they cover the image, fade into one another, and fit into the memory budget."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.errors import UsageError
from self2self.imaging.padding import Padding
from self2self.model.contract import INPUT_MASK, Contract
from self2self.model.masks import MaskMaker
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.tiles import (
    OVERLAP,
    RAMP,
    SMALLEST_TILE,
    Canvas,
    TilePlan,
    largest_tile,
    place_of,
    tile_sizes,
)
from self2self.runtime.memory_budget import pass_bytes
from self2self.runtime.model import Model
from tests.conftest import Fitted

multiples = st.integers(2, 40).map(lambda n: 32 * n)
limits = st.integers(SMALLEST_TILE // 32, 20).map(lambda n: 32 * n)


@given(height=multiples, width=multiples, largest=limits)
@settings(max_examples=200)
def test_tiles_of_one_size_cover_the_image(height: int, width: int, largest: int) -> None:
    plan = TilePlan.cut(height, width, largest)
    for axis in (plan.rows, plan.columns):
        assert axis.tile % 32 == 0
        assert axis.tile <= min(largest, axis.length)
        assert all(start % 32 == 0 for start in axis.starts)
        assert axis.starts[0] == 0
        assert axis.starts[-1] + axis.tile == axis.length
        for left, right in zip(axis.starts, axis.starts[1:], strict=False):
            assert left + axis.tile - right >= OVERLAP
            assert right - left >= RAMP
    assert (plan.count == 1) == (max(height, width) <= largest)


@given(length=multiples, largest=limits)
@settings(max_examples=200)
def test_weights_sum_to_one_and_are_zero_at_edges(length: int, largest: int) -> None:
    axis = TilePlan.cut(length, 64, largest).rows
    total = np.zeros(length)
    for index, start in enumerate(axis.starts):
        weights = axis.weights(index)
        total[start : start + axis.tile] += weights
        assert (weights >= 0).all()
        if index > 0:
            assert (weights[:16] == 0).all()
        if index + 1 < len(axis.starts):
            assert (weights[-16:] == 0).all()
        assert np.abs(np.diff(weights)).max() < 0.06, "a step would be a seam"
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(
    height=st.integers(100, 400),
    width=st.integers(100, 400),
    in_place=st.booleans(),
    largest=st.sampled_from([128, 160, 256]),
    share=st.sampled_from([0.0, 0.7]),
)
@settings(max_examples=30)
def test_a_canvas_puts_the_tiles_of_an_image_together(
    height: int, width: int, in_place: bool, largest: int, share: float
) -> None:
    image = np.random.default_rng(0).random((2, height, width), dtype=np.float32)
    expected = image.copy()
    padding = Padding.for_size(height, width)
    rows, columns = padding.pad_indices(height, width)
    assert np.array_equal(image[:, rows[:, None], columns], padding.pad(image))
    plan = TilePlan.cut(len(rows), len(columns), largest)
    out = image if in_place else np.empty_like(image)
    canvas = Canvas(plan, padding, out, image, noisy_share=share) if share else Canvas(plan, padding, out)
    for row, top in enumerate(plan.rows.starts):
        for column, left in enumerate(plan.columns.starts):
            lines = rows[top : top + plan.rows.tile, None]
            prediction = image[:, lines, columns[left : left + plan.columns.tile]]
            canvas.add(row, column, prediction / 2 if share else prediction)
    assert canvas.lines == height
    np.testing.assert_allclose(out, expected * (0.5 + share / 2) if share else expected, atol=1e-6)


def test_tile_sizes_are_halved_down_to_the_smallest() -> None:
    assert list(tile_sizes(1024)) == [1024, 512, 256, 128]
    assert list(tile_sizes(480)) == [480, 224, 128]
    assert list(tile_sizes(64)) == [128]


def test_masks_of_tiles_are_independent_and_place_0_has_those_of_the_whole_image(tiny: Fitted) -> None:
    maker = MaskMaker(tiny.contract.masks, {"H": 128, "W": 128}, seed=3)
    whole = maker.make(5, 1)[INPUT_MASK].copy()
    maker.place = place_of(0, 0)
    assert np.array_equal(maker.make(5, 1)[INPUT_MASK], whole)
    seen = [whole]
    for top, left in ((0, 64), (64, 0), (64, 64), (32 * 700, 32)):
        maker.place = place_of(top, left)
        mask = maker.make(5, 1)[INPUT_MASK].copy()
        assert all(0.4 < (mask == other).mean() < 0.64 for other in seen), (
            "a share of 0.6 * 0.6 + 0.4 * 0.4 = 0.52 should be equal"
        )
        seen.append(mask)
    maker.place = place_of(64, 0)
    assert np.array_equal(maker.make(5, 1)[INPUT_MASK], seen[2])


def side_for(model: Model, size: tuple[int, int], room: int, per_element: int = 12) -> int:
    return largest_tile(model, size, room, partial(pass_bytes, per_element=per_element))


def test_the_tile_size_depends_on_budget_image_and_engine(tiny_model: Model) -> None:
    sides = [side_for(tiny_model, (4096, 4096), room) for room in (0, 10**8, 4 * 10**8)]
    assert sides[0] == SMALLEST_TILE
    assert SMALLEST_TILE < sides[1] < sides[2] < 4096
    # A row of tiles is in memory as well, so a wider image has smaller tiles.
    assert side_for(tiny_model, (4096, 8192), 4 * 10**8) < sides[2]
    # An engine that takes twice the memory per element has smaller tiles.
    assert sides[1] < side_for(tiny_model, (4096, 4096), 4 * 10**8, per_element=24) <= sides[2] - 32
    assert side_for(tiny_model, (64, 96), 10**9) == 96
    fixed = Model(tiny_model.path, tiny_model.contract, (512, 512))
    assert side_for(fixed, (512, 512), 0) == 512
    with pytest.raises(UsageError, match="--memory is 0 bytes"):
        denoise_pixels(tiny_model, np.zeros((3, 64, 64), np.float32), EnsembleOptions(memory=0))


def test_a_larger_tile_that_takes_less_memory_is_found(tiny_model: Model) -> None:
    def hump(contract: Contract, axes: Mapping[str, int]) -> int:
        return 10**9 if axes["H"] * axes["W"] <= 256**2 else 10**7

    assert largest_tile(tiny_model, (512, 512), 10**9, hump) == 512
    # No cut may give tiles of at most 256x256, which take more memory than larger ones.
    side = largest_tile(tiny_model, (1024, 1024), 10**8 + 10**7, hump)
    plan = TilePlan.cut(1024, 1024, side)
    assert plan.count > 1
    assert plan.rows.tile > 256


@given(height=st.integers(2, 200), width=st.integers(2, 200), megabytes=st.integers(0, 3000))
@settings(max_examples=40)
def test_the_chosen_tile_fits_by_its_own_estimate(tiny_model: Model, height: int, width: int, megabytes: int) -> None:
    size = 32 * height, 32 * width
    room = megabytes * 10**6
    plan = TilePlan.cut(*size, side_for(tiny_model, size, room))
    taken = pass_bytes(tiny_model.contract, plan.axes)
    assert taken <= room or max(plan.rows.tile, plan.columns.tile) <= SMALLEST_TILE
