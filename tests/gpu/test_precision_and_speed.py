"""Tests that need a real GPU: half precision, the GPU benchmark, throughput and memory. Run: make gpu-test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu as benchmark
from self2self.bench.benchmark_model import BenchmarkModel
from self2self.errors import EngineUnavailableError
from self2self.export.to_onnx import to_onnx
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.onnxruntime.cpu import OrtEngine
from self2self.runtime.engines.registry import NEEDS_GPU, get_engine
from self2self.runtime.ensemble.device_engine import DeviceEngine, free_device_bytes, masks_for
from self2self.runtime.ensemble.device_loop import run_device_ensemble
from self2self.runtime.memory_budget import pass_bytes
from self2self.runtime.model import Model, load_model
from tests.conftest import Fitted, MakeFitted

HALF_TOLERANCE = 2e-3
"""Relative to the largest prediction; compared with the same fp16 file on the CPU, which rounds at other places."""
SIZE = (128, 128)


@pytest.fixture(scope="module", params=list(NEEDS_GPU))
def engine(request: pytest.FixtureRequest) -> type[Engine]:
    try:
        found = get_engine(request.param)
        benchmark.require_cuda()
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    return found


@pytest.fixture(scope="module")
def paper(make_fitted: MakeFitted) -> Fitted:
    return make_fitted(encoder_width=48, decoder_widths=(96,) * 5)


@pytest.fixture(scope="module")
def models(paper: Fitted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("precisions")
    models = {}
    for precision in ("fp32", "fp16"):
        path = folder / f"model.{precision}.onnx"
        to_onnx(paper.network, replace(paper.contract, precision=precision), path)
        models[precision] = load_model(path)
    return models


@pytest.mark.parametrize("count", [1, 8, 17])
def test_fp16_with_host_masks(engine: type[Engine], models: dict[str, Model], count: int) -> None:
    model = models["fp16"]
    image = np.random.default_rng(0).random((1, 3, 96, 64), dtype=np.float32)
    masks = MaskMaker(model.contract.masks, {"H": 96, "W": 64}, 0).make(0, count)
    with engine(model, image) as running, OrtEngine(model, image) as reference:
        got, expected = running.run(masks), reference.run(masks)
    difference = np.abs(got.astype(np.float64) - expected)
    scale = max(1.0, float(np.abs(expected).max()))
    assert difference.max() <= HALF_TOLERANCE * scale, (
        f"{engine.name}: max difference {difference.max():.3g}, mean {difference.mean():.3g}; "
        f"tolerance {HALF_TOLERANCE * scale:.3g}"
    )


def test_throughput_exceeds_that_of_the_plain_loop(
    engine: type[Engine], paper: Fitted, models: dict[str, Model]
) -> None:
    result = benchmark.measure(
        BenchmarkModel("random weights", paper.network, models["fp32"]),
        list(models.values()),
        [engine],
        benchmark.CudaDevice(),
        size=SIZE,
        batches=(16,),
        passes=32,
        count=3,
    )
    print(benchmark.table({"gpu": {"name": f"{engine.version()} on {engine.device_name()}"}, **result}))
    assert not result["problems"]
    assert len(result["cases"]) == 3
    # `make gpu-bench` measures by how much. Here it shows that nothing ran on the CPU.
    assert all(row["ratio_to_plain"]["median"] > 1 for row in result["cases"][1:])


def test_memory_of_a_batch_is_within_the_estimate(engine: type[Engine], models: dict[str, Model]) -> None:
    import torch

    model, batch = models["fp32"], 8
    axes = dict(zip("HW", SIZE, strict=True))
    image = np.random.default_rng(0).random((1, 3, *SIZE), dtype=np.float32)
    torch.cuda.empty_cache()
    before = free_device_bytes("cuda")
    with engine(model, image) as running:
        assert isinstance(running, DeviceEngine)
        maker = masks_for(running, 0)
        run_device_ensemble(running, maker, 2 * batch, batch=batch)
        taken = before - free_device_bytes("cuda")
    # 2 GiB more, for libraries, kernels, workspaces and an engine whose profile allows larger batches.
    assert taken <= batch * pass_bytes(model.contract, axes) + 2 * 2**30, f"{taken / 2**20:.0f} MiB"


def test_an_fp16_engine_is_built_once_and_loaded_again(engine: type[Engine], models: dict[str, Model]) -> None:
    if engine.name not in ("trt", "trt-rtx"):
        pytest.skip("ONNX Runtime manages its own engine files")
    model = models["fp16"]
    image = np.random.default_rng(0).random((1, 3, *SIZE), dtype=np.float32)
    folder: Path = model.path.parent / "engines"
    for _ in range(2):
        with engine(model, image):
            pass
    assert len(list(folder.glob(f"model.fp16.{engine.name}.*128x128*.engine"))) == 1
