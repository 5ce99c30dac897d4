"""The ensemble of GPU engines, with its tensors on the CPU: seeding, sums, batches, memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from self2self.errors import EngineUnavailableError, FileFormatError, ResourceError, UsageError
from self2self.imaging.orientation import MIRROR_ORIENTATIONS, oriented, undo_orientation
from self2self.model.contract import INPUT_MASK
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.onnxruntime.cpu import OrtEngine
from self2self.runtime.engines.registry import engine_class
from self2self.runtime.ensemble import denoise as denoise_module
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.device_engine import (
    TRIAL_BATCHES,
    DeviceEngine,
    choose_mask_source,
    largest_device_batch,
    masks_for,
)
from self2self.runtime.ensemble.device_loop import PASSES_PER_ROUND, run_device_ensemble
from self2self.runtime.ensemble.device_masks import DeviceMasks
from self2self.runtime.ensemble.host_loop import PassesResult
from self2self.runtime.ensemble.moments import Moments
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.pass_plan import PassPlan
from self2self.runtime.model import Model, load_model
from tests.runtime.fakes import FakeEngine, fake_model, use_engine
from tests.runtime.gpu_on_the_cpu import CudaOnTheCpu, RtxOnTheCpu, TrtOnTheCpu, on_the_cpu
from tests.runtime.kernels_on_the_cpu import TorchOnTheCpu, needs_compiler

SIZE = 64
AXES = {"H": SIZE, "W": SIZE}


class OnDevice(FakeEngine):
    """Predicts the masked image, on the device."""

    device = "cpu"
    limit = 64
    fits = 64
    bad_pass: int | None = None

    def __init__(self, model: Model, image: FloatArray) -> None:
        super().__init__(model, image)
        self.seen: list[FloatArray] = []
        """The image of each run."""

    def run_on_device(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        mask = masks[INPUT_MASK]
        if len(mask) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        predictions = torch.from_numpy(self.image) * mask
        if self.bad_pass is not None and sum(self.counts) <= self.bad_pass < sum(self.counts) + len(mask):
            predictions[self.bad_pass - sum(self.counts)].view(-1)[7] = math.nan
        self.counts.append(len(mask))
        self.seen.append(self.image)
        return predictions

    def largest_device_batch(self) -> int:
        return self.limit


def on_device() -> OnDevice:
    return OnDevice(fake_model(), np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32))


def run(engine: OnDevice, passes: int | PassPlan, **options: object) -> PassesResult:
    maker = DeviceMasks(engine.model.contract.masks, AXES, 3, "cpu")
    assert isinstance(engine, DeviceEngine)
    return run_device_ensemble(engine, maker, passes, **options)  # type: ignore[arg-type]


def plain_predictions(engine: OnDevice, passes: int) -> FloatArray:
    maker = DeviceMasks(engine.model.contract.masks, AXES, 3, "cpu")
    masks = maker.fill(maker.allocate(passes), 0, passes)[INPUT_MASK].numpy()
    return engine.image * masks


@pytest.mark.parametrize("batch", [None, 1, 3, 8, 50])
def test_moments_equal_those_of_all_passes_for_every_batch(batch: int | None) -> None:
    engine = on_device()
    result = run(engine, 21, batch=batch)
    predictions = plain_predictions(engine, 21).astype(np.float64)
    assert result.moments.count == sum(engine.counts) == 21
    np.testing.assert_allclose(result.moments.mean(), predictions.mean(axis=0), rtol=0, atol=1e-7)
    np.testing.assert_allclose(result.moments.standard_deviation(), predictions.std(axis=0, ddof=1), rtol=0, atol=1e-6)
    if batch is not None:
        assert result.batch == min(batch, 21)


def test_batches_are_tried_up_to_64_and_not_beyond_the_engine() -> None:
    assert TRIAL_BATCHES == (1, 2, 4, 8, 16, 32, 64)
    engine = on_device()
    engine.limit = 4
    run(engine, 60)
    assert max(engine.counts) <= 4
    engine = on_device()
    engine.limit = 4
    run(engine, 9, batch=100)
    assert engine.counts == [4, 4, 1]


def test_a_batch_that_does_not_fit_is_halved_and_loses_no_pass() -> None:
    engine = on_device()
    engine.fits = 3
    notes: list[str] = []
    result = run(engine, 10, batch=16, on_note=notes.append)
    assert notes == [
        "a batch of 10 does not fit into the GPU's memory; going on with 8.",
        "a batch of 8 does not fit into the GPU's memory; going on with 4.",
        "a batch of 4 does not fit into the GPU's memory; going on with 2.",
    ]
    assert engine.counts == [2] * 5
    np.testing.assert_allclose(
        result.moments.mean(), plain_predictions(engine, 10).mean(axis=0, dtype=np.float64), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("batch", [None, 1, 8])
def test_flips_show_the_image_in_every_orientation(batch: int | None) -> None:
    engine = on_device()
    upright = engine.image.copy()
    result = run(engine, PassPlan(10, tolerance=None, balanced=False, flips=True), batch=batch)
    maker = DeviceMasks(engine.model.contract.masks, AXES, 3, "cpu")
    masks = maker.fill(maker.allocate(10), 0, 10)[INPUT_MASK].numpy()
    orientations = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    expected = [
        undo_orientation(oriented(upright[0], orientation) * mask, orientation)
        for orientation, mask in zip(orientations, masks, strict=True)
    ]
    np.testing.assert_allclose(result.moments.mean(), np.mean(expected, axis=0, dtype=np.float64), rtol=0, atol=1e-6)
    assert np.array_equal(engine.image, upright), "the next image is compared with this one"


@given(
    passes=st.integers(1, 3 * PASSES_PER_ROUND),
    batch=st.sampled_from([None, 1, 3, 64]),
    tolerance=st.sampled_from([None, 1e-9]),
)
def test_orientations_have_equal_numbers_of_passes(passes: int, batch: int | None, tolerance: float | None) -> None:
    engine = on_device()
    views = [oriented(engine.image, orientation).copy() for orientation in range(MIRROR_ORIENTATIONS)]
    run(engine, PassPlan(passes, tolerance, balanced=False, flips=True), batch=batch)
    counts = [
        sum(count for count, image in zip(engine.counts, engine.seen, strict=True) if np.array_equal(image, view))
        for view in views
    ]
    assert sum(counts) == passes
    assert max(counts) - min(counts) <= 1
    assert np.array_equal(engine.seen[0], views[0])


def test_a_tolerance_ends_after_the_first_round_that_reaches_it() -> None:
    errors: list[tuple[int, float]] = []
    for rounds in range(1, 6):
        exact = run(
            on_device(), PassPlan(rounds * PASSES_PER_ROUND, tolerance=None, balanced=False, flips=False)
        ).moments
        errors.append((exact.count, exact.standard_error()))
    wanted = 0.5 * (errors[2][1] + errors[3][1])
    assert errors[2][1] > wanted > errors[3][1]
    result = run(on_device(), PassPlan(100 * PASSES_PER_ROUND, tolerance=wanted, balanced=False, flips=False))
    assert result.moments.count == errors[3][0]
    assert result.moments.standard_error() <= wanted
    # The largest number of passes ends the loop, too. With flips, each orientation has a quarter of a round.
    flipped = run(on_device(), PassPlan(2 * PASSES_PER_ROUND, tolerance=1e-9, balanced=False, flips=True), batch=64)
    assert flipped.moments.count == 2 * PASSES_PER_ROUND
    engine = on_device()
    run(engine, PassPlan(2 * PASSES_PER_ROUND, tolerance=1e-9, balanced=False, flips=True), batch=64)
    assert engine.counts == [PASSES_PER_ROUND // 4] * 8


def test_a_single_pass_that_does_not_fit_is_an_error() -> None:
    engine = on_device()
    engine.fits = 0
    with pytest.raises(ResourceError, match="a single pass does not fit"):
        run(engine, 4)


@pytest.mark.parametrize("bad", [0, 13, 19])
def test_predictions_that_are_not_finite_are_found(bad: int) -> None:
    engine = on_device()
    engine.bad_pass = bad
    with pytest.raises(FileFormatError, match="not finite"):
        run(engine, 20, batch=4)


def test_progress_ends_with_all_passes_and_may_stop_the_loop() -> None:
    seen: list[Moments] = []
    run(on_device(), 12, batch=5, on_progress=seen.append)
    assert seen[-1].count == 12
    assert math.isfinite(seen[-1].standard_error())

    def stop(moments: Moments) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_device(), 12, on_progress=stop)


def test_the_largest_batch_depends_on_free_memory() -> None:
    contract = fake_model().contract
    assert largest_device_batch(contract, AXES, 0) == 1
    assert largest_device_batch(contract, AXES, 2**40) == 64
    # Half of the memory, 12 bytes for each of the mask's 3 * 64 * 64 elements.
    assert largest_device_batch(contract, AXES, 2 * 5 * 12 * 3 * 64 * 64) == 5


def test_the_mask_source_depends_on_option_and_engine() -> None:
    assert choose_mask_source("auto", OnDevice) == "device"
    assert choose_mask_source("host", OnDevice) == "host"
    assert choose_mask_source("auto", OrtEngine) == "host"
    with pytest.raises(UsageError, match=r"device does not work with engine ort: it runs on the CPU\. Use host"):
        choose_mask_source("device", OrtEngine)
    with pytest.raises(UsageError, match="--mask-source is 'gpu'; expected one of: auto, host, device"):
        choose_mask_source("gpu", OrtEngine)
    if not torch.cuda.is_available():
        assert choose_mask_source("auto", engine_class("trt")) == "host"


# The engines' own code.


@pytest.fixture(params=[CudaOnTheCpu, TrtOnTheCpu, RtxOnTheCpu, pytest.param(TorchOnTheCpu, marks=needs_compiler)])
def gpu_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    return on_the_cpu(request.param, monkeypatch)


def test_engines_predict_with_masks_of_the_device(gpu_engine: type[Engine], tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    model = load_model(path)
    image = np.random.default_rng(2).random((1, 3, SIZE, SIZE), dtype=np.float32)
    with gpu_engine(model, image) as running, OrtEngine(model, image) as reference:
        assert isinstance(running, DeviceEngine)
        maker = masks_for(running, 0)
        for first, count in enumerate((2, 5, 1)):
            masks = maker.fill(maker.allocate(count), first, count)
            on_host = {name: np.ascontiguousarray(mask.numpy()) for name, mask in masks.items()}
            expected = reference.run(on_host)
            np.testing.assert_allclose(running.run_on_device(masks).numpy(), expected, rtol=0, atol=1e-5)
            # Host masks in between use buffers of their own.
            np.testing.assert_allclose(running.run(on_host), expected, rtol=0, atol=1e-5)


def test_device_buffers_are_bound_once_and_used_again(tiny_model: Model) -> None:
    image = np.random.default_rng(2).random((1, 3, SIZE, SIZE), dtype=np.float32)
    maker = DeviceMasks(tiny_model.contract.masks, AXES, 0, "cpu")
    slots = [maker.allocate(3), maker.allocate(3)]
    # Compute the other image now, because the engine uses the array `image` itself as device memory here.
    other = 1 - image
    with CudaOnTheCpu(tiny_model, image) as running, OrtEngine(tiny_model, image) as reference:
        # Like the ensemble: two slots in turn, a smaller last batch, and then another image.
        for first, count in ((0, 3), (3, 3), (6, 3), (9, 3), (12, 1), (15, 3)):
            if first == 15:
                running.set_image(other)
                reference.set_image(other)
            masks = maker.fill(slots[first // 3 % 2], first, count)
            expected = reference.run({name: mask.numpy() for name, mask in masks.items()})
            np.testing.assert_allclose(running.run_on_device(masks).numpy(), expected, rtol=0, atol=1e-5)
        assert len(running._device_bindings) == 3
        masks = maker.fill(maker.allocate(5), 0, 5)
        expected = reference.run({name: mask.numpy() for name, mask in masks.items()})
        np.testing.assert_allclose(running.run_on_device(masks).numpy(), expected, rtol=0, atol=1e-5)
        # The larger buffer replaced the smaller one, to which nothing may be written any more.
        assert len(running._device_bindings) == 1
        for index in range(40):
            running.run_on_device(maker.fill(maker.allocate(5), index, 1))
        assert len(running._device_bindings) <= 16


def test_a_batch_that_does_not_fit_leaves_no_buffers_behind(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((1, 3, SIZE, SIZE), np.float32)
    maker = DeviceMasks(tiny_model.contract.masks, AXES, 0, "cpu")
    with CudaOnTheCpu(tiny_model, image) as running:
        session = running._session

        class Full:
            def io_binding(self) -> object:
                return session.io_binding()

            def run_with_iobinding(self, binding: object) -> None:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 1073741824")

        monkeypatch.setattr(running, "_session", Full())
        with pytest.raises(MemoryError):
            running.run_on_device(maker.fill(maker.allocate(2), 0, 2))
        assert (running._predictions, running._device_bindings) == (None, {})


def test_the_result_names_the_mask_source(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoise_module, "get_engine", lambda name, *, plain_pixels: CudaOnTheCpu)
    pixels = np.random.default_rng(1).random((3, 64, 70), dtype=np.float32)
    device = denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="ort-cuda", passes=6, seed=2))
    again = denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="ort-cuda", passes=6, batch=2, seed=2))
    host = denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="ort-cuda", passes=6, seed=2, mask_source="host"))
    assert (device.mask_source, host.mask_source) == ("device", "host")
    np.testing.assert_allclose(again.image, device.image, rtol=0, atol=1e-6)
    # Other masks of the same probability: another sample of the same mean.
    assert not np.array_equal(device.image, host.image)
    assert device.image.shape == pixels.shape


def test_progress_contains_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    use_engine(monkeypatch, OnDevice)
    seen: list[tuple[int, int, int]] = []

    def on_progress(moments: Moments) -> None:
        seen.append((moments.tile, moments.count, moments.tiles))

    pixels = np.random.default_rng(0).random((3, 64, 300), dtype=np.float32)
    result = denoise_pixels(fake_model(), pixels, EnsembleOptions(passes=4, batch=2, memory=1), on_progress=on_progress)
    assert (result.mask_source, result.tiles > 1) == ("device", True)
    assert [entry for entry in seen if entry[1] == 4] == [(tile, 4, result.tiles) for tile in range(result.tiles)]


def test_a_fallback_is_noted_and_stands_in_the_result(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).random((3, 64, 64), dtype=np.float32)
    notes: list[str] = []

    def get(name: str, *, plain_pixels: int | None) -> type[Engine]:
        if name == "trt":
            raise EngineUnavailableError("engine trt: there is no NVIDIA driver. Use --engine ort.")
        return OrtEngine

    monkeypatch.setattr(denoise_module, "get_engine", get)
    with pytest.raises(EngineUnavailableError):
        denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="trt", passes=2))
    done = denoise_pixels(
        tiny_model,
        pixels,
        EnsembleOptions(engine="trt", passes=2, mask_source="device", allow_fallback=True),
        on_note=notes.append,
    )
    assert (done.engine, done.mask_source) == ("ort", "host")
    assert done.fallback == "engine trt: there is no NVIDIA driver. Use --engine ort."
    assert notes == [done.fallback + " Falling back to ort, as --allow-fallback says."]
    assert (
        denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="ort", passes=2, allow_fallback=True)).fallback == ""
    )
