"""Smaller levels are means, made block by block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from self2self.image_io.volumes.pyramid import edges_of, means_of, source_of
from self2self.image_io.volumes.volume import blocks_of


@given(
    fine=st.tuples(st.integers(1, 20), st.integers(1, 30)),
    factors=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    up=st.booleans(),
    block=st.tuples(st.integers(1, 6), st.integers(1, 7)),
)
def test_blocks_of_a_level_are_the_means_of_the_elements_below(
    fine: tuple[int, int], factors: tuple[int, int], up: bool, block: tuple[int, int]
) -> None:
    shape = tuple(max(1, -(-length // by) if up else length // by) for length, by in zip(fine, factors, strict=True))
    values = np.random.default_rng(0).integers(0, 60000, fine).astype(np.uint16)
    edges = edges_of(fine, shape)
    made = np.zeros(shape, np.uint16)
    for selection in blocks_of(shape, block):
        made[selection] = means_of(values[source_of(selection, edges)], selection, edges)
    expected = np.zeros(shape)
    for row, column in np.ndindex(shape):
        rows, columns = (slice(ends[at], ends[at + 1]) for ends, at in zip(edges, (row, column), strict=True))
        expected[row, column] = np.rint(values[rows, columns].astype(float).mean())
    assert np.abs(made - expected).max() <= 1
    assert all(ends[0] == 0 and (np.diff(ends) >= 1).all() for ends in edges)


@pytest.mark.parametrize(
    ("fine", "coarse", "expected"),
    [(8, 4, [0, 2, 4, 6, 8]), (5, 3, [0, 2, 4, 5]), (5, 2, [0, 2, 4]), (7, 5, [0, 1, 2, 4, 5, 7])],
)
def test_a_rest_is_left_out_or_makes_the_last_element(fine: int, coarse: int, expected: list[int]) -> None:
    assert edges_of((fine,), (coarse,))[0].tolist() == expected
