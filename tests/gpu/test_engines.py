"""Tests that need a real GPU: predictions, engine files, batches, memory. Run: make gpu-test."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from self2self.errors import EngineUnavailableError
from self2self.model.contract import Contract
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.onnxruntime.cpu import OrtEngine
from self2self.runtime.engines.registry import NEEDS_GPU, get_engine
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model, load_model
from tests.conftest import Fitted, MakeFitted

TOLERANCE = 1e-4
TF32_TOLERANCE = 2e-3
"""Tolerance for engines that round products to TF32. ONNX Runtime's TensorRT provider cannot switch that off."""


@pytest.fixture(scope="module", params=list(NEEDS_GPU))
def engine(request: pytest.FixtureRequest) -> type[Engine]:
    try:
        return get_engine(request.param)
    except EngineUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["tiny", "grey", "paper"])
def model(request: pytest.FixtureRequest, make_fitted: MakeFitted, tmp_path_factory: pytest.TempPathFactory) -> Model:
    from self2self.export.to_onnx import to_onnx

    options = {"tiny": {}, "grey": {"channels": 1}, "paper": {"encoder_width": 48, "decoder_widths": (96,) * 5}}
    fitted: Fitted = make_fitted(**options[request.param])
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    to_onnx(fitted.network, fitted.contract, path)
    return load_model(path)


def picture(contract: Contract, size: tuple[int, int]) -> FloatArray:
    return np.random.default_rng(0).random((1, contract.channels, *size), dtype=np.float32)


@pytest.mark.parametrize("size", [(64, 64), (128, 96)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_predictions_with_host_masks(engine: type[Engine], model: Model, size: tuple[int, int]) -> None:
    image = picture(model.contract, size)
    maker = MaskMaker(model.contract.masks, {"H": size[0], "W": size[1]}, 0)
    tolerance = TF32_TOLERANCE if engine.rounds_to == "tf32" else TOLERANCE
    with engine(model, image) as running, OrtEngine(model, image) as reference:
        # 65 is one more than the largest batch of any engine.
        for count in (1, 3, 8, 65, 2):
            masks = maker.make(0, count)
            got, expected = running.run(masks), reference.run(masks)
            assert got.shape == expected.shape
            assert got.dtype == np.float32
            difference = np.abs(got.astype(np.float64) - expected)
            scale = max(1.0, float(np.abs(expected).max()))
            assert difference.max() <= tolerance * scale, (
                f"{running.provider()}, batch {count}: max difference {difference.max():.3g}, "
                f"mean {difference.mean():.3g}; tolerance {tolerance * scale:.3g}"
            )


def test_the_second_start_is_quick_and_predicts_the_same(engine: type[Engine], model: Model) -> None:
    image = picture(model.contract, (96, 96))
    masks = MaskMaker(model.contract.masks, {"H": 96, "W": 96}, 0).make(0, 4)
    with engine(model, image) as running:
        first = running.run(masks).copy()
    start = time.perf_counter()
    with engine(model, image) as running:
        second = running.run(masks)
    assert time.perf_counter() - start < 30
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-4)


def test_a_damaged_engine_is_built_again(engine: type[Engine], model: Model) -> None:
    if engine.name not in ("trt", "trt-rtx"):
        pytest.skip("ONNX Runtime manages its own engine files")
    image = picture(model.contract, (64, 64))
    with engine(model, image):
        pass
    for path in (model.path.parent / "engines").glob(f"model.{engine.name}.*.engine"):
        path.write_bytes(path.read_bytes()[:-1])
    notes: list[str] = []
    running = engine(model, image)
    running.note = notes.append
    with running:
        running.run(MaskMaker(model.contract.masks, {"H": 64, "W": 64}, 0).make(0, 1))
    assert [note for note in notes if "building it again" in note]


def test_the_mean_equals_that_of_the_cpu(engine: type[Engine], model: Model) -> None:
    pixels = picture(model.contract, (70, 90))[0]
    reference = denoise_pixels(model, pixels, EnsembleOptions(engine="ort", passes=20, seed=1))
    result = denoise_pixels(model, pixels, EnsembleOptions(engine=engine.name, passes=20, seed=1, mask_source="host"))
    assert result.engine == engine.name
    tolerance = TF32_TOLERANCE if engine.rounds_to == "tf32" else TOLERANCE
    assert np.abs(result.image - reference.image).max() <= tolerance


def test_device_memory_is_released(engine: type[Engine], tmp_path: Path, tiny_onnx: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch, which measures free memory, cannot use CUDA here")
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    model = load_model(path)
    image = picture(model.contract, (256, 256))
    masks = MaskMaker(model.contract.masks, {"H": 256, "W": 256}, 0).make(0, 8)
    free = []
    for _ in range(4):
        with engine(model, image) as running:
            running.run(masks)
        torch.cuda.empty_cache()
        free.append(torch.cuda.mem_get_info()[0])
    # Kernels stay loaded after the first start.
    assert free[-1] >= free[1] - 64 * 2**20, free


def test_predictions_with_device_masks(engine: type[Engine], model: Model) -> None:
    import torch

    from self2self.runtime.ensemble.device_engine import DeviceEngine, masks_for

    if not torch.cuda.is_available():
        pytest.skip("PyTorch, which makes the masks, cannot use CUDA here")
    image = picture(model.contract, (96, 64))
    tolerance = TF32_TOLERANCE if engine.rounds_to == "tf32" else TOLERANCE
    with engine(model, image) as running, OrtEngine(model, image) as reference:
        assert isinstance(running, DeviceEngine)
        maker = masks_for(running, 0)
        masks = maker.fill(maker.allocate(5), 3, 5)
        again = maker.fill(maker.allocate(1), 6, 1)
        assert all(torch.equal(mask[3], again[name][0]) for name, mask in masks.items()), "masks depend on the batch"
        torch.cuda.synchronize()
        got = running.run_on_device(masks)
        torch.cuda.synchronize()
        expected = reference.run({name: np.ascontiguousarray(mask.cpu().numpy()) for name, mask in masks.items()})
    difference = np.abs(got.cpu().numpy() - expected).max()
    assert difference <= tolerance * max(1.0, float(np.abs(expected).max()))


@pytest.mark.parametrize("batch", [1, 7, None])
def test_the_mean_with_device_masks_does_not_depend_on_the_batch(
    engine: type[Engine], model: Model, batch: int | None
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch, which makes the masks, cannot use CUDA here")
    pixels = picture(model.contract, (70, 90))[0]
    expected = denoise_pixels(
        model, pixels, EnsembleOptions(engine=engine.name, passes=40, batch=4, seed=1, mask_source="device")
    )
    got = denoise_pixels(
        model, pixels, EnsembleOptions(engine=engine.name, passes=40, batch=batch, seed=1, mask_source="device")
    )
    assert got.mask_source == "device"
    # Missing synchronisation of streams would show here.
    assert np.abs(got.image - expected.image).max() <= TF32_TOLERANCE
