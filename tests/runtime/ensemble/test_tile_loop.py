"""The passes of all tiles: as good as passes over the whole image, on one engine, within the memory budget."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from self2self.errors import ResourceError
from self2self.model.contract import INPUT_MASK
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.ensemble import tile_loop as tile_loop_module
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.moments import Moments
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model
from tests.runtime.fakes import FakeEngine, IdentityEngine, fake_model, repeat_image, use_engine

SMALL = 1
"""A budget in bytes under which every image is cut into the smallest tiles."""


def test_the_result_of_tiles_is_close_to_that_of_the_whole(tiny_model: Model) -> None:
    rng = np.random.default_rng(0)
    pixels = np.clip(0.5 + 0.1 * rng.standard_normal((3, 200, 231)), 0, 1).astype(np.float32)
    whole = denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="torch", passes=24, batch=8))
    cut = denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="torch", passes=24, batch=8, memory=SMALL))
    other = denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="torch", passes=24, batch=8, seed=1))
    assert (whole.tile, whole.tiles) == (None, 1)
    assert (cut.tile, cut.tiles) == ((128, 128), 9)
    assert cut.image.shape == pixels.shape
    assert cut.standard_error == pytest.approx(whole.standard_error, rel=0.1)
    assert whole.uncertainty is not None
    assert cut.uncertainty is not None
    np.testing.assert_allclose(cut.uncertainty.mean(), whole.uncertainty.mean(), rtol=0.05)
    # The masks differ, so tiles may change the result as much as another seed does, but nowhere more.
    difference, noise = cut.image - whole.image, other.image - whole.image
    assert difference.std() <= 1.05 * noise.std()
    for axis in (1, 2):
        others = tuple(i for i in range(3) if i != axis)
        lines, of_noise = (np.sqrt(np.square(d).mean(others)) for d in (difference, noise))
        assert lines.max() <= 1.2 * of_noise.max(), f"a seam at line {lines.argmax()} of axis {axis}"


def test_without_masks_tiles_equal_the_whole(make_fitted: object, tmp_path: Path) -> None:
    """If all masks are True, nothing is random, and only the edges of the tiles make a difference."""
    from self2self.export.to_onnx import to_onnx
    from self2self.runtime.model import load_model

    fitted = make_fitted(channels=1, drop_rate=0.0)  # type: ignore[operator]
    # Small weights keep the predictions away from the ends of the range, so that no value is clamped.
    fitted.network.head.weight.data.mul_(0.3)
    fitted.network.head.bias.data.fill_(0.5)
    to_onnx(fitted.network, fitted.contract, tmp_path / "calm.onnx")
    model = load_model(tmp_path / "calm.onnx")
    pixels = np.random.default_rng(0).random((1, 230, 270), dtype=np.float32)
    whole = denoise_pixels(model, pixels, EnsembleOptions(engine="torch", passes=1)).image
    assert 0 < whole.min() < whole.max() < 1
    cut = denoise_pixels(model, pixels, EnsembleOptions(engine="torch", passes=1, memory=SMALL))
    assert cut.tiles == 12
    error = np.abs(cut.image - whole)
    assert error.max() < 0.02 * np.ptp(whole)
    assert 20 * np.log10(np.ptp(whole) / np.sqrt(np.square(error).mean())) > 50


@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_do_not_depend_on_the_batch(tiny_model: Model, batch: int) -> None:
    pixels = np.random.default_rng(0).random((3, 100, 200), dtype=np.float32)
    # A memory budget would limit the batch, so the limit is replaced for this test.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_loop_module, "largest_host_batch", lambda *_: 8)
        got = denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="torch", passes=5, batch=batch, memory=SMALL))
        reference = denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="torch", passes=5, batch=5, memory=SMALL))
    assert got.batch == batch
    assert got.tiles > 1
    np.testing.assert_allclose(got.image, reference.image, atol=5e-6)


def test_batches_above_the_useful_batch_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneByOne(FakeEngine):
        @classmethod
        def useful_batch(cls, axes: Mapping[str, int]) -> int:
            return 1

    made = use_engine(monkeypatch, OneByOne)
    pixels = np.ones((3, 64, 64), np.float32)
    assert denoise_pixels(fake_model(), pixels, EnsembleOptions(passes=5)).batch == 1
    assert made[0].counts == [1, 1, 1, 1, 1]
    assert denoise_pixels(fake_model(), pixels, EnsembleOptions(passes=5, batch=3)).batch == 3
    assert made[1].counts == [3, 2]


def test_one_engine_serves_all_tiles_and_progress_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = use_engine(monkeypatch, IdentityEngine)
    pixels = np.random.default_rng(0).random((3, 200, 300), dtype=np.float32)
    seen: list[tuple[int, int, int]] = []

    def on_progress(moments: Moments) -> None:
        seen.append((moments.tile, moments.count, moments.tiles))

    result = denoise_pixels(
        fake_model(),
        pixels,
        EnsembleOptions(passes=4, batch=2, memory=SMALL, uncertainty=False),
        on_progress=on_progress,
    )
    np.testing.assert_allclose(result.image, pixels, atol=1e-6)
    assert result.uncertainty is None
    assert len(made) == 1
    assert made[0].closed == 1
    assert [tile for tile, count, _ in seen if count == 4] == list(range(result.tiles))
    assert {tiles for *_, tiles in seen} == {result.tiles}
    assert result.tiles > 4


def test_the_deviation_is_computed_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    use_engine(monkeypatch, IdentityEngine)
    monkeypatch.delattr(Moments, "standard_deviation")
    pixels = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)
    np.testing.assert_allclose(
        denoise_pixels(fake_model(), pixels, EnsembleOptions(passes=3, uncertainty=False)).image, pixels, atol=1e-6
    )


def test_out_of_memory_halves_the_batch_then_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int]] = []

    class Small(FakeEngine):
        def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
            count, side = len(masks[INPUT_MASK]), self.image.shape[3]
            tried.append((count, side))
            if count * side > 200:
                raise MemoryError("no more")
            return repeat_image(self.image, masks)

    use_engine(monkeypatch, Small)
    pixels = np.random.default_rng(0).random((3, 256, 512), dtype=np.float32)
    notes: list[str] = []
    result = denoise_pixels(fake_model(), pixels, EnsembleOptions(passes=4, batch=4), on_note=notes.append)
    np.testing.assert_allclose(result.image, pixels, atol=1e-6)
    assert tried[:3] == [(4, 512), (2, 512), (1, 512)]
    assert result.tile is not None
    assert max(result.tile) <= 128
    assert notes[:3] == [
        "out of memory; going on with 2 passes at a time.",
        "out of memory; going on with 1 passes at a time.",
        "out of memory; going on with tiles of at most 256x256 pixels.",
    ]


def test_too_little_memory_for_the_smallest_tile_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(FakeEngine):
        def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
            raise MemoryError("no more")

    use_engine(monkeypatch, Full)
    with pytest.raises(ResourceError, match="a single pass does not fit"):
        denoise_pixels(fake_model(), np.zeros((3, 300, 300), np.float32), EnsembleOptions(passes=1))


def test_an_image_is_overwritten_only_if_allowed_and_necessary(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero(FakeEngine):
        def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
            return 0 * repeat_image(self.image, masks)

    use_engine(monkeypatch, Zero)
    for allowed, memory, overwritten in ((False, SMALL, False), (True, 10**9, False), (True, SMALL, True)):
        pixels = np.ones((3, 200, 200), np.float32)
        # Channels of one value would stay as they are.
        pixels[:, 0, 0] = 0.5
        result = denoise_pixels(fake_model(), pixels, EnsembleOptions(passes=1, memory=memory), may_overwrite=allowed)
        assert (result.image == 0).all()
        assert (result.image is pixels) == overwritten
        assert pixels.max() == (0 if overwritten else 1)


SCRIPT = """
import sys, numpy as np
from pathlib import Path
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import load_model
model = load_model(sys.argv[1])
import onnxruntime
# Not getrusage, whose peak includes that of the parent process.
def peak_memory_bytes():
    return next(int(l.split()[1]) * 1024 for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l)
before = peak_memory_bytes()
pixels = np.random.default_rng(0).random((3, 1536, 1536), dtype=np.float32)
options = EnsembleOptions(engine="ort", passes=1, memory=int(sys.argv[2]), uncertainty=False)
done = denoise_pixels(model, pixels, options, may_overwrite=True)
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


@pytest.mark.parametrize("memory", [SMALL, 10**9])
def test_a_channel_of_one_value_stays_as_it_is_where_it_was_measured(
    memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half(FakeEngine):
        def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
            return 0 * repeat_image(self.image, masks) + np.float32(0.5)

    use_engine(monkeypatch, Half)
    pixels = np.random.default_rng(0).random((3, 200, 200), dtype=np.float32)
    missing = np.zeros((200, 200), bool)
    missing[:20] = True
    pixels[0], pixels[2] = 1, 0.25
    # What was not measured does not count.
    pixels[2, :20] = 0.75
    options = EnsembleOptions(passes=2, memory=memory, uncertainty=True)
    result = denoise_pixels(fake_model(), pixels, options, missing=missing)
    assert (result.image[0] == 1).all()
    assert (result.image[2, 20:] == 0.25).all()
    assert (result.image[1] != pixels[1]).all()
    assert result.uncertainty is not None
    assert (result.uncertainty[[0, 2]] == 0).all()
