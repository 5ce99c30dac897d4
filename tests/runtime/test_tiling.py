"""Tiles: they cover the image, fade into one another, and show nowhere in the result."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.contract import INPUT_MASK
from self2self.errors import ResourceError, UsageError
from self2self.masks import BoolArray, MaskMaker
from self2self.padding import Padding
from self2self.runtime import denoise as module
from self2self.runtime.denoise import Prepared, denoise, largest_tile
from self2self.runtime.engine import Engine, FloatArray
from self2self.runtime.ensemble import Moments
from self2self.runtime.model import Model
from self2self.runtime.tiling import OVERLAP, RAMP, SMALLEST_TILE, Canvas, TilePlan, place_of, tile_sizes
from tests.conftest import Fitted
from tests.runtime.fakes import FakeEngine, fake_model, repeat_image

SMALL = 1
"""A budget in bytes under which every image is cut into the smallest tiles."""

multiples = st.integers(2, 40).map(lambda n: 32 * n)
limits = st.integers(SMALLEST_TILE // 32, 20).map(lambda n: 32 * n)


@given(height=multiples, width=multiples, largest=limits)
@settings(max_examples=200, deadline=None)
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
@settings(max_examples=200, deadline=None)
def test_weights_sum_to_one_and_edges_count_for_nothing(length: int, largest: int) -> None:
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
)
@settings(max_examples=30, deadline=None)
def test_a_canvas_gives_back_what_it_is_cut_from(height: int, width: int, in_place: bool, largest: int) -> None:
    image = np.random.default_rng(0).random((2, height, width), dtype=np.float32)
    expected = image.copy()
    padding = Padding.for_size(height, width)
    rows, columns = padding.pad_indices(height, width)
    assert np.array_equal(image[:, rows[:, None], columns], padding.pad(image))
    plan = TilePlan.cut(len(rows), len(columns), largest)
    out = image if in_place else np.empty_like(image)
    canvas = Canvas(plan, padding, out)
    for row, top in enumerate(plan.rows.starts):
        for column, left in enumerate(plan.columns.starts):
            lines = rows[top : top + plan.rows.tile, None]
            canvas.add(row, column, image[:, lines, columns[left : left + plan.columns.tile]])
    assert canvas.lines == height
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_tile_sizes_are_halved_down_to_the_smallest() -> None:
    assert list(tile_sizes(1024)) == [1024, 512, 256, 128]
    assert list(tile_sizes(480)) == [480, 224, 128]
    assert list(tile_sizes(64)) == [128]


def test_masks_of_places_are_independent_and_place_0_is_the_whole_image(tiny: Fitted) -> None:
    maker = MaskMaker(tiny.contract.masks, {"H": 128, "W": 128}, seed=3)
    whole = maker.make(5, 1)[INPUT_MASK].copy()
    maker.place = place_of(0, 0)
    assert np.array_equal(maker.make(5, 1)[INPUT_MASK], whole)
    seen = [whole]
    for top, left in ((0, 64), (64, 0), (64, 64), (32 * 700, 32)):
        maker.place = place_of(top, left)
        mask = maker.make(5, 1)[INPUT_MASK].copy()
        assert all(0.4 < (mask == other).mean() < 0.64 for other in seen), "0.6 * 0.6 + 0.4 * 0.4 = 0.52 are equal"
        seen.append(mask)
    maker.place = place_of(64, 0)
    assert np.array_equal(maker.make(5, 1)[INPUT_MASK], seen[2])


def test_the_result_of_tiles_is_close_to_that_of_the_whole(tiny_model: Model) -> None:
    rng = np.random.default_rng(0)
    pixels = np.clip(0.5 + 0.1 * rng.standard_normal((3, 200, 231)), 0, 1).astype(np.float32)
    whole = denoise(tiny_model, pixels, engine="torch", passes=24, batch=8)
    cut = denoise(tiny_model, pixels, engine="torch", passes=24, batch=8, memory=SMALL)
    other = denoise(tiny_model, pixels, engine="torch", passes=24, batch=8, seed=1)
    assert (whole.tile, whole.tiles) == (None, 1)
    assert (cut.tile, cut.tiles) == ((128, 128), 9)
    assert cut.image.shape == pixels.shape
    assert cut.standard_error == pytest.approx(whole.standard_error, rel=0.1)
    assert whole.uncertainty is not None
    assert cut.uncertainty is not None
    np.testing.assert_allclose(cut.uncertainty.mean(), whole.uncertainty.mean(), rtol=0.05)
    # Masks differ, so tiles may differ from the whole by as much as another seed does, and nowhere by more.
    difference, noise = cut.image - whole.image, other.image - whole.image
    assert difference.std() <= 1.05 * noise.std()
    for axis in (1, 2):
        others = tuple(i for i in range(3) if i != axis)
        lines, of_noise = (np.sqrt(np.square(d).mean(others)) for d in (difference, noise))
        assert lines.max() <= 1.2 * of_noise.max(), f"a seam at line {lines.argmax()} of axis {axis}"


def test_without_masks_tiles_equal_the_whole(make_fitted: object, tmp_path: Path) -> None:
    """With every mask True nothing is random, so that what is left is the edge of the tiles."""
    from self2self.export.to_onnx import to_onnx
    from self2self.runtime.model import load_model

    fitted = make_fitted(channels=1, drop_rate=0.0)  # type: ignore[operator]
    to_onnx(fitted.network, fitted.contract, tmp_path / "calm.onnx")
    model = load_model(tmp_path / "calm.onnx")
    pixels = np.random.default_rng(0).random((1, 230, 270), dtype=np.float32)
    bounds = (-9.0, 9.0)
    whole = denoise(model, pixels, engine="torch", passes=1, bounds=bounds).image
    cut = denoise(model, pixels, engine="torch", passes=1, bounds=bounds, memory=SMALL)
    assert cut.tiles == 12
    error = np.abs(cut.image - whole)
    assert error.max() < 0.02 * np.ptp(whole)
    assert 20 * np.log10(np.ptp(whole) / np.sqrt(np.square(error).mean())) > 50


@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_do_not_depend_on_the_batch(tiny_model: Model, batch: int) -> None:
    pixels = np.random.default_rng(0).random((3, 100, 200), dtype=np.float32)
    # A budget caps the batch, so that nothing but the constant is changed for this test.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "largest_batch", lambda *_: 8)
        got = denoise(tiny_model, pixels, engine="torch", passes=5, batch=batch, memory=SMALL)
        reference = denoise(tiny_model, pixels, engine="torch", passes=5, batch=5, memory=SMALL)
    assert got.batch == batch
    assert got.tiles > 1
    np.testing.assert_allclose(got.image, reference.image, atol=5e-6)


class Patched:
    """Makes `denoise` use an engine class of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, engine: type[Engine]) -> None:
        monkeypatch.setattr(module, "get_engine", lambda _: engine)


def test_one_engine_serves_all_tiles_and_progress_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeEngine] = []

    class Counted(FakeEngine):
        def __init__(self, model: Model, image: FloatArray) -> None:
            super().__init__(model, image)
            self.predict = repeat_image  # type: ignore[method-assign]
            made.append(self)

    Patched(monkeypatch, Counted)
    pixels = np.random.default_rng(0).random((3, 200, 300), dtype=np.float32)
    seen: list[tuple[int, int, int]] = []

    def on_progress(moments: Moments) -> None:
        seen.append((moments.tile, moments.count, moments.tiles))

    result = denoise(fake_model(), pixels, passes=4, batch=2, memory=SMALL, on_progress=on_progress, uncertainty=False)
    np.testing.assert_allclose(result.image, pixels, atol=1e-6)
    assert result.uncertainty is None
    assert len(made) == 1
    assert made[0].closed == 1
    assert [tile for tile, count, _ in seen if count == 4] == list(range(result.tiles))
    assert {tiles for *_, tiles in seen} == {result.tiles}
    assert result.tiles > 4


def test_one_engine_serves_images_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeEngine] = []

    class Counted(FakeEngine):
        def __init__(self, model: Model, image: FloatArray) -> None:
            super().__init__(model, image)
            self.predict = repeat_image  # type: ignore[method-assign]
            made.append(self)

    Patched(monkeypatch, Counted)
    model = fake_model()
    rng = np.random.default_rng(0)
    with Prepared() as prepared:
        for count, size in ((1, (60, 90)), (1, (64, 96)), (2, (64, 128)), (3, (64, 96))):
            pixels = rng.random((3, *size), dtype=np.float32)
            assert np.array_equal(denoise(model, pixels, passes=1, prepared=prepared).image, pixels)
            assert len(made) == count
            assert [engine.closed for engine in made] == [1] * (count - 1) + [0], "two engines at a time"
    assert made[-1].closed == 1


def test_out_of_memory_halves_the_batch_then_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int]] = []

    class Small(FakeEngine):
        def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
            count, side = len(masks[INPUT_MASK]), self.image.shape[3]
            tried.append((count, side))
            if count * side > 200:
                raise MemoryError("no more")
            return repeat_image(self.image, masks)

    Patched(monkeypatch, Small)
    pixels = np.random.default_rng(0).random((3, 256, 512), dtype=np.float32)
    notes: list[str] = []
    result = denoise(fake_model(), pixels, passes=4, batch=4, on_note=notes.append)
    np.testing.assert_allclose(result.image, pixels, atol=1e-6)
    assert tried[:3] == [(4, 512), (2, 512), (1, 512)]
    assert result.tile is not None
    assert max(result.tile) <= 128
    assert notes[:3] == [
        "out of memory; going on with 2 passes at a time.",
        "out of memory; going on with 1 passes at a time.",
        "out of memory; going on with tiles of at most 256x256 pixels.",
    ]


def test_out_of_memory_with_the_smallest_tile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(FakeEngine):
        def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
            raise MemoryError("no more")

    Patched(monkeypatch, Full)
    with pytest.raises(ResourceError, match="a single pass does not fit"):
        denoise(fake_model(), np.zeros((3, 300, 300), np.float32), passes=1)


def test_an_image_is_overwritten_only_where_that_is_allowed_and_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero(FakeEngine):
        def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
            return 0 * repeat_image(self.image, masks)

    Patched(monkeypatch, Zero)
    for allowed, memory, overwritten in ((False, SMALL, False), (True, 10**9, False), (True, SMALL, True)):
        pixels = np.ones((3, 200, 200), np.float32)
        result = denoise(fake_model(), pixels, passes=1, memory=memory, may_overwrite=allowed)
        assert (result.image == 0).all()
        assert (result.image is pixels) == overwritten
        assert pixels.max() == (0 if overwritten else 1)


def test_the_tile_follows_the_budget(tiny_model: Model) -> None:
    sides = [largest_tile(tiny_model, (4096, 4096), room) for room in (0, 10**8, 4 * 10**8)]
    assert sides[0] == SMALLEST_TILE
    assert SMALLEST_TILE < sides[1] < sides[2] < 4096
    # A row of tiles is held as well, so a wider image has smaller tiles.
    assert largest_tile(tiny_model, (4096, 8192), 4 * 10**8) < sides[2]
    assert largest_tile(tiny_model, (64, 96), 10**9) == 96
    fixed = Model(tiny_model.path, tiny_model.contract, (512, 512))
    assert largest_tile(fixed, (512, 512), 0) == 512
    with pytest.raises(UsageError, match="--memory is 0 bytes"):
        denoise(tiny_model, np.zeros((3, 64, 64), np.float32), memory=0)


SCRIPT = """
import sys, numpy as np
from pathlib import Path
from self2self.runtime.denoise import denoise
from self2self.runtime.model import load_model
model = load_model(sys.argv[1])
import onnxruntime
# Not getrusage, whose peak begins with that of the process that started this one.
def peak_memory_bytes():
    return next(int(l.split()[1]) * 1024 for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l)
before = peak_memory_bytes()
pixels = np.random.default_rng(0).random((3, 1536, 1536), dtype=np.float32)
done = denoise(model, pixels, engine="ort", passes=1, memory=int(sys.argv[2]), uncertainty=False, may_overwrite=True)
print(done.tiles, peak_memory_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured as on Linux")
def test_the_peak_stays_within_the_budget(tiny_onnx: Path) -> None:
    budget = 300 * 10**6
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_onnx), str(budget)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    tiles, peak = map(int, output.split())
    assert tiles > 1
    assert 3 * 4 * 1536**2 < peak <= budget
