"""Parts of an image become what they are in the whole: the same pooled pixels, padding, masks and views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from self2self.imaging.padding import Padding
from self2self.model.contract import SIZE_MULTIPLE
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.ensemble import denoise as denoising
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.tiles import PartOfImage, windows_of
from self2self.runtime.model import load_model
from tests.runtime.fakes import FakeEngine, fake_model

PLAIN = replace(fake_model(1), contract=fake_model(1).contract.as_plain())


@given(length=st.integers(8, 700), side=st.integers(16, 300), halo=st.integers(0, 100))
def test_windows_see_the_halo_begin_where_the_network_pools_and_have_one_size(
    length: int, side: int, halo: int
) -> None:
    spans = [(start, min(start + side, length)) for start in range(0, length, side)]
    windows = windows_of(spans, length, halo)
    whole = Padding.for_size(length, length)
    sizes = set()
    for (start, end), (first, last) in zip(spans, windows, strict=True):
        assert 0 <= first <= max(0, start - halo)
        assert min(length, end + halo) <= last <= length
        assert first == 0 or (first + whole.top) % SIZE_MULTIPLE == 0
        sizes.add((whole.top if first == 0 else 0) + last - first + (whole.bottom if last == length else 0))
    assert len(sizes) == 1
    assert sizes.pop() % SIZE_MULTIPLE == 0


class Pooling(FakeEngine):
    """Predicts the mean of each square of 32 pixels, so that its result tells where the squares are."""

    runs_plain = True

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        assert not masks
        count, channels, height, width = self.image.shape
        squares = self.image.reshape(count, channels, height // 32, 32, width // 32, 32)
        return np.broadcast_to(squares.mean(axis=(3, 5), keepdims=True), squares.shape).reshape(self.image.shape)


@pytest.mark.parametrize("size", [(250, 300), (256, 320), (129, 65)])
def test_the_network_pools_the_same_pixels_in_a_part_as_in_the_whole(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoising, "get_engine", lambda name, *, plain_pixels: Pooling)
    height, width = size
    pixels = np.random.default_rng(0).random((1, height, width), dtype=np.float32)
    options = EnsembleOptions(restore=False)
    whole = denoising.denoise_pixels(PLAIN, pixels, options).image
    made = np.zeros_like(whole)
    rows, columns = ([(start, min(start + 100, side)) for start in range(0, side, 100)] for side in size)
    for (top, bottom), (first, last) in zip(rows, windows_of(rows, height, 32), strict=True):
        for (left, right), (begin, end) in zip(columns, windows_of(columns, width, 32), strict=True):
            part = PartOfImage(height, width, first, begin, last - first, end - begin)
            result = denoising.denoise_pixels(PLAIN, pixels[:, first:last, begin:end], options, part=part).image
            made[:, top:bottom, left:right] = result[:, top - first : bottom - first, left - begin : right - begin]
    np.testing.assert_allclose(made, whole, atol=1e-6)


def test_passes_of_a_part_have_masks_of_their_own(tiny_onnx: Path) -> None:
    model = load_model(tiny_onnx)
    pixels = np.full((3, 256, 64), 0.5, np.float32)
    options = EnsembleOptions(engine="torch", passes=1, restore=False, uncertainty=False)
    first, second = (
        denoising.denoise_pixels(model, pixels[:, :128], options, part=PartOfImage(256, 64, top, 0, 128, 64)).image
        for top in (0, 128)
    )
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("top", "rows", "origin"), [(0, 128, (0, 0)), (61, 189, (64, 0))])
def test_the_origin_counts_in_the_padded_whole(tiny_onnx: Path, top: int, rows: int, origin: tuple[int, int]) -> None:
    contract = load_model(tiny_onnx).contract
    # 250 rows are padded to 256: by three above, and three below.
    assert PartOfImage(250, 100, top, 0, rows, 100).origin(contract) == origin
