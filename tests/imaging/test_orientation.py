"""Test the orientations of arrays and tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from self2self.imaging.orientation import MIRROR_ORIENTATIONS, oriented, undo_orientation

VALUES = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)


@pytest.mark.parametrize("orientation", range(8))
def test_arrays_and_tensors_are_mirrored_and_transposed_alike_and_can_be_undone(orientation: int) -> None:
    expected = VALUES[..., ::-1] if orientation in (1, 3, 5, 7) else VALUES
    expected = np.flip(expected, 2) if orientation in (2, 3, 6, 7) else expected
    expected = np.einsum("nchw->ncwh", expected) if orientation >= 4 else expected
    array, tensor = oriented(VALUES, orientation), oriented(torch.from_numpy(VALUES), orientation)
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    np.testing.assert_array_equal(undo_orientation(array, orientation), VALUES)
    np.testing.assert_array_equal(undo_orientation(tensor, orientation).numpy(), VALUES)


def test_all_orientations_differ_and_the_mirrored_ones_keep_the_shape() -> None:
    found = [oriented(VALUES, orientation) for orientation in range(8)]
    assert len({(values.shape, values.tobytes()) for values in found}) == 8
    assert [values.shape == VALUES.shape for values in found] == [True] * MIRROR_ORIENTATIONS + [False] * 4


def test_an_array_is_not_copied() -> None:
    assert all(np.shares_memory(oriented(VALUES, orientation), VALUES) for orientation in range(8))
