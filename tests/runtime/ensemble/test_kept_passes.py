"""Passes that are interrupted go on from the disk, with the bits of passes that never were interrupted."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from self2self.errors import EngineUnavailableError
from self2self.model.masks import PASSES_PER_BLOCK
from self2self.runtime.engines.registry import ENGINES, NEEDS_GPU, get_engine
from self2self.runtime.ensemble import kept_passes
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.kept_passes import INTERVAL_SECONDS, KeptPasses
from self2self.runtime.ensemble.moments import Moments, PassSums
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.pass_plan import PassPlan
from self2self.runtime.ensemble.tile_loop import EnsembleResult
from self2self.runtime.ensemble.tiles import TilePlan
from self2self.runtime.model import Model, load_model
from tests.conftest import MakeFitted
from tests.runtime.ensemble.test_device_loop import SIZE, on_device, run

SMALLEST_TILES = 1
"""A budget in bytes under which every image is cut into the smallest tiles."""
OPTIONS = EnsembleOptions(engine="torch", passes=23, batch=3)


@pytest.fixture(autouse=True)
def instant_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing takes no time, though every look at the clock does."""
    monkeypatch.setattr(kept_passes, "LARGEST_WRITE_SHARE", math.inf)


class Clock:
    """A clock on which every look at it takes `step` seconds."""

    def __init__(self, step: float = INTERVAL_SECONDS) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class KillError(Exception):
    """Stands for a kill."""


def noisy(size: tuple[int, int], channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(0.5 + 0.1 * rng.standard_normal((channels, *size)), 0, 1).astype(np.float32)


def kept_in(folder: Path, *, step: float = INTERVAL_SECONDS, notes: list[str] | None = None) -> KeptPasses:
    return KeptPasses(folder / "kept", "job", [].append if notes is None else notes.append, clock=Clock(step))


def ends_at(number: int) -> Callable[[PassSums], None]:
    """A callback that interrupts the passes at its call `number`, from 1."""
    calls = iter(range(1, number + 1))

    def on_progress(moments: PassSums) -> None:
        if next(calls) == number:
            raise KillError

    return on_progress


def interrupted_each_time(
    model: Model, pixels: np.ndarray, options: EnsembleOptions, folder: Path, every: int
) -> tuple[EnsembleResult, int]:
    """The result of passes that are interrupted after `every` runs again and again, and how often they were."""
    for times in range(40):
        try:
            result = denoise_pixels(
                model, pixels.copy(), options, kept=kept_in(folder), on_progress=ends_at(every), may_overwrite=True
            )
        except KillError:
            continue
        return result, times
    raise AssertionError("no progress")


def assert_same(got: EnsembleResult, expected: EnsembleResult) -> None:
    assert np.array_equal(got.image, expected.image)
    assert got.passes == expected.passes
    np.testing.assert_equal(got.standard_error, expected.standard_error)
    assert (got.engine, got.provider, got.tiles, got.tile) == (
        expected.engine,
        expected.provider,
        expected.tiles,
        expected.tile,
    )
    if expected.uncertainty is None:
        assert got.uncertainty is None
    else:
        assert got.uncertainty is not None
        assert np.array_equal(got.uncertainty, expected.uncertainty)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name not in NEEDS_GPU])
def test_every_engine_goes_on_with_the_same_bits(engine: str, tiny_model: Model, tmp_path: Path) -> None:
    try:
        get_engine(engine)
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    pixels, options = noisy((40, 100)), replace(OPTIONS, engine=engine)
    expected = denoise_pixels(tiny_model, pixels, options)
    # KillError within blocks, and in every orientation.
    got, times = interrupted_each_time(tiny_model, pixels, options, tmp_path, every=3)
    assert times >= 3
    assert_same(got, expected)


@pytest.mark.parametrize(
    "changed",
    [
        {"flips": False},
        {"balanced": False},
        {"passes": "auto", "tolerance": 36.0},
        {"passes": "auto", "tolerance": 45.0, "flips": False, "batch": 4},
        {"uncertainty": False},
        {"restore": False},
        {"memory": SMALLEST_TILES},
    ],
    ids=str,
)
def test_every_kind_of_passes_goes_on_with_the_same_bits(
    changed: dict[str, object], tiny_model: Model, tmp_path: Path
) -> None:
    pixels, options = noisy((40, 200) if "memory" in changed else (40, 100)), replace(OPTIONS, **changed)  # type: ignore[arg-type]
    expected = denoise_pixels(tiny_model, pixels, options)
    got, times = interrupted_each_time(tiny_model, pixels, options, tmp_path, every=3)
    assert times >= 2
    assert_same(got, expected)


def test_a_plain_model_keeps_its_finished_tiles(make_fitted: MakeFitted, tmp_path: Path) -> None:
    from self2self.export.plain import export_plain

    fitted = make_fitted(channels=1, drop_rate=0.0)
    export_plain(fitted.network, fitted.contract.as_plain(), tmp_path / "plain.onnx")
    model = load_model(tmp_path / "plain.onnx")
    pixels, options = noisy((100, 200), 1), EnsembleOptions(engine="ort", uncertainty=False, memory=SMALLEST_TILES)
    views: list[int] = []
    expected = denoise_pixels(model, pixels, options, on_progress=lambda moments: views.append(moments.tile))
    assert expected.tiles > 1
    got, times = interrupted_each_time(model, pixels, options, tmp_path, every=1 + views.count(0))
    assert times == expected.tiles - 1
    assert_same(got, expected)


def test_the_number_of_passes_does_not_depend_on_the_batch(tiny_model: Model) -> None:
    """The error is looked at after whole blocks, which a run of 8 or 7 passes would step over."""
    pixels = noisy((40, 40))
    options = replace(OPTIONS, passes="auto", tolerance=40.0, flips=False)
    counts = {denoise_pixels(tiny_model, pixels, replace(options, batch=batch)).passes for batch in (1, 7, 8)}
    assert len(counts) == 1
    assert counts.pop() % PASSES_PER_BLOCK == 0


@pytest.mark.parametrize("flips", [False, True])
def test_passes_on_a_device_go_on(flips: bool, tmp_path: Path) -> None:
    plan = PassPlan(101, tolerance=None, balanced=False, flips=flips)
    expected = run(on_device(), plan, batch=3).moments
    counts = []
    for every in (1, 3, 5, 1000):
        kept = kept_in(tmp_path)
        kept.begin({})
        kept.use_tiles(TilePlan.cut(SIZE, SIZE, SIZE))
        engine = on_device()
        try:
            got = run(engine, plan, batch=3, kept=kept.sums_of(0, 1), on_progress=ends_at(every)).moments
        except KillError:
            continue
        finally:
            counts.append(sum(engine.counts))
    assert sum(counts[:-1]) > 0
    assert counts[-1] < 101
    assert got.count == 101
    np.testing.assert_allclose(got.mean(), expected.mean(), rtol=0, atol=1e-7)
    np.testing.assert_allclose(got.standard_deviation(), expected.standard_deviation(), rtol=0, atol=1e-7)


def files_after_an_interruption(model: Model, folder: Path, *, step: float = INTERVAL_SECONDS) -> list[str]:
    with pytest.raises(KillError):
        denoise_pixels(model, noisy((40, 100)), OPTIONS, kept=kept_in(folder, step=step), on_progress=ends_at(4))
    return sorted(path.name for path in folder.glob("kept/*"))


@pytest.mark.parametrize("changed", [{"seed": 1}, {"passes": 24}, {"flips": False}, {"engine": "ort"}], ids=str)
def test_passes_of_other_options_are_not_gone_on_from(
    changed: dict[str, object], tiny_model: Model, tmp_path: Path
) -> None:
    assert files_after_an_interruption(tiny_model, tmp_path)
    options = replace(OPTIONS, **changed)  # type: ignore[arg-type]
    first: list[int] = []
    kept = kept_in(tmp_path, step=0)
    got = denoise_pixels(tiny_model, noisy((40, 100)), options, kept=kept, on_progress=lambda m: first.append(m.count))
    assert first[0] <= 3
    assert_same(got, denoise_pixels(tiny_model, noisy((40, 100)), options))
    assert not list(tmp_path.glob("kept/*")), "the passes of the other options stay for ever"


def test_passes_of_another_model_are_not_gone_on_from(
    tiny_model: Model, make_fitted: MakeFitted, tmp_path: Path
) -> None:
    from self2self.export.to_onnx import to_onnx

    copy = tmp_path / "model.onnx"
    shutil.copy(tiny_model.path, copy)
    assert files_after_an_interruption(load_model(copy), tmp_path)
    other = make_fitted(seed=5)
    to_onnx(other.network, other.contract, copy)
    got = denoise_pixels(load_model(copy), noisy((40, 100)), OPTIONS, kept=kept_in(tmp_path))
    assert_same(got, denoise_pixels(load_model(copy), noisy((40, 100)), OPTIONS))


def test_damaged_files_are_not_gone_on_from(tiny_model: Model, tmp_path: Path) -> None:
    (name,) = files_after_an_interruption(tiny_model, tmp_path)
    path = tmp_path / "kept" / name
    whole = bytearray(path.read_bytes())
    expected = denoise_pixels(tiny_model, noisy((40, 100)), OPTIONS)
    flipped = whole.copy()
    flipped[len(whole) // 2] ^= 1
    for damaged in (whole[: len(whole) // 2], flipped, b""):
        path.write_bytes(damaged)
        assert_same(denoise_pixels(tiny_model, noisy((40, 100)), OPTIONS, kept=kept_in(tmp_path, step=0)), expected)


def test_short_passes_leave_no_trace_and_long_ones_are_kept_in_time(tiny_model: Model, tmp_path: Path) -> None:
    assert not files_after_an_interruption(tiny_model, tmp_path, step=INTERVAL_SECONDS / 1000)
    assert not (tmp_path / "kept").exists()
    assert files_after_an_interruption(tiny_model, tmp_path)
    kept = kept_in(tmp_path)
    kept.begin({})
    kept.remove()
    assert not (tmp_path / "kept").exists()


def test_where_nothing_can_be_kept_the_passes_go_on(tiny_model: Model, tmp_path: Path) -> None:
    notes: list[str] = []
    kept = kept_in(tmp_path / "vanished", notes=notes)
    got = denoise_pixels(tiny_model, noisy((40, 100)), OPTIONS, kept=kept)
    assert_same(got, denoise_pixels(tiny_model, noisy((40, 100)), OPTIONS))
    assert len(notes) == 1
    assert notes[0].startswith("the passes so far cannot be kept for the case of an interruption: ")


def test_an_earlier_run_with_smaller_tiles_decides_their_size(tiny_model: Model, tmp_path: Path) -> None:
    """Free memory differs from run to run, and tiles of another size would give other bits."""
    # One pass at a time, because a small budget also makes batches smaller, which changes the last bits on some CPUs.
    single = replace(OPTIONS, batch=1)
    pixels, small = noisy((100, 200)), replace(single, memory=SMALLEST_TILES)
    expected = denoise_pixels(tiny_model, pixels, small)
    with pytest.raises(KillError):
        denoise_pixels(tiny_model, pixels, small, kept=kept_in(tmp_path), on_progress=ends_at(10))
    got = denoise_pixels(tiny_model, pixels, single, kept=kept_in(tmp_path))
    assert_same(got, expected)


def test_stored_moments_are_those_that_were_stored() -> None:
    rng = np.random.default_rng(0)
    moments = Moments((1, 4, 5), block=10)
    for orientation in (0, 1, 2, 3, 0):
        moments.add(rng.random((7, 1, 4, 5), dtype=np.float32), orientation)
        moments.add(rng.random((3, 1, 4, 5), dtype=np.float32), orientation)
    moments.add(rng.random((4, 1, 4, 5), dtype=np.float32), 1)
    numbers, sums = moments.stored()
    again = Moments.restored(numbers, {name: values.copy() for name, values in sums.items()})
    for each in (moments, again):
        each.add(np.full((6, 1, 4, 5), 0.25, np.float32), 1)
    assert again.standard_error() == moments.standard_error()
    assert np.array_equal(again.mean(), moments.mean())
    assert np.array_equal(again.standard_deviation(), moments.standard_deviation())
