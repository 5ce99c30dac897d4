"""Blocks cover a volume once, in whole units, and every axis comes back where it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from self2self.jobs.volumes import blocks
from self2self.jobs.volumes.blocks import HALO, cut, shape_of_blocks
from self2self.jobs.volumes.layout import VolumeLayout

LENGTHS = {"T": st.integers(1, 3), "C": st.integers(1, 3), "Z": st.integers(1, 9)}


@given(data=st.data())
def test_blocks_cover_the_volume_once_and_write_whole_units(data: st.DataObject) -> None:
    axes = "".join(data.draw(st.permutations("TCZYX")))
    shape = tuple(data.draw(LENGTHS.get(letter, st.integers(8, 900))) for letter in axes)
    unit = tuple(1 if letter in "TC" else data.draw(st.integers(1, 6 if letter == "Z" else 700)) for letter in axes)
    layout = VolumeLayout(axes, shape)
    groups = tuple(slice(channel, channel + 1) for channel in range(layout.length("C")))
    size = shape_of_blocks(layout, unit, 1)
    counts = np.zeros(shape, np.uint8)
    for number, block in enumerate(cut(layout, size, groups)):
        assert block.number == number
        selection = block.selection(layout)
        counts[selection] += 1
        for part, length, least in zip(selection, shape, unit, strict=True):
            assert part.start % least == 0
            assert part.stop % least == 0 or part.stop == length
        for core, window, length in zip(block.core, block.window, layout.size, strict=True):
            assert window.start <= max(0, core.start - HALO)
            assert window.stop >= min(length, core.stop + HALO)
    assert (counts == 1).all()


@pytest.mark.parametrize("axes", ["ZYX", "YXZ", "TCZYX", "XYCZ", "YXS", "TZYXS"])
def test_pages_go_back_where_they_came_from(axes: str) -> None:
    lengths = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 6, "S": 3}
    shape = tuple(lengths[letter] for letter in axes)
    values = np.arange(np.prod(shape)).reshape(shape)
    layout = VolumeLayout(axes, shape)
    pages = layout.as_pages(values)
    assert pages.shape[:3] == (layout.pages, 5, 6)
    assert np.array_equal(layout.from_pages(pages, shape), values)
    place = {"T": 1, "Z": 2, "Y": 3, "X": 4, "C": 1, "S": 1}
    page = layout.page(*(place[letter] if letter in axes else 0 for letter in "TZ"))
    sample = 1 if set(axes) & set("CS") else 0
    assert pages[page, 3, 4, sample] == values[tuple(place[letter] for letter in axes)]


def test_a_page_that_is_a_little_larger_than_a_block_is_not_cut() -> None:
    side = blocks.SIDE + 2 * blocks.HALO
    assert shape_of_blocks(VolumeLayout("YX", (side, side + 1)), (64, 64), 1) == (side, blocks.SIDE)
