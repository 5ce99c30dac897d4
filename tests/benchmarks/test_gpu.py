"""The GPU benchmark with a fake clock and fake engines: order of the rounds, figures, verdicts, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import CaseRunner, rounds
from benchmarks.gpu_verdicts import entries, table, verdicts
from self2self.bench.benchmark_model import BenchmarkModel
from self2self.bench.cases import PLAIN, BenchmarkCase
from self2self.errors import Obstacle
from self2self.machine.nvidia import Gpu, NoGpu
from self2self.runtime.model import load_model
from tests.conftest import Fitted
from tests.runtime.gpu_on_the_cpu import CudaOnTheCpu

CARD = Gpu("NVIDIA RTX 4090", (8, 9), 24 * 2**30, (13, 0))


class FakeDevice:
    """A clock that moves by the seconds that the work returns."""

    name = "cpu"

    def __init__(self) -> None:
        self.peaks = 0

    def seconds(self, work: Callable[[], object]) -> float:
        taken = work()
        return float(taken) if isinstance(taken, float) else 0.5

    def peak_gflops(self) -> float:
        self.peaks += 1
        return 1000.0


def runner(
    log: list[str], engine: str, seconds: float, precision: str = "fp16", batch: int = 16, masks: float = 0.01
) -> CaseRunner:
    case = BenchmarkCase(engine, engine, precision, batch, (256, 256), 64)

    def run() -> float:
        log.append(f"{engine}-{batch}")
        return seconds

    return CaseRunner(case, run, None if engine == PLAIN else lambda: masks)


def measured() -> tuple[list[dict[str, Any]], list[str]]:
    log: list[str] = []
    runners = [
        runner(log, PLAIN, 6.4, "fp32", 1),
        runner(log, "trt", 0.4, batch=8, masks=0.001),
        runner(log, "trt", 0.5, masks=0.001),
        runner(log, "ort-cuda", 1.6, "fp32", 64, masks=0.32),
    ]
    device = FakeDevice()
    peaks = rounds(runners, device, 3)
    assert peaks == [1000.0] * 3
    assert device.peaks == 4, "the first is a warm-up"
    return entries([one.case for one in runners], peaks, gflop=5.0), log


def test_everything_is_warmed_up_and_the_order_rotates() -> None:
    _, log = measured()
    assert log == [
        *("plain-1", "trt-8", "trt-16", "ort-cuda-64"),
        *("plain-1", "trt-8", "trt-16", "ort-cuda-64"),
        *("trt-8", "trt-16", "ort-cuda-64", "plain-1"),
        *("trt-16", "ort-cuda-64", "plain-1", "trt-8"),
    ]


def test_ratios_shares_and_peaks() -> None:
    rows, _ = measured()
    plain, small, large, wide = rows
    assert plain["passes_per_second"]["median"] == pytest.approx(10)
    assert [row["ratio_to_plain"]["median"] for row in rows] == pytest.approx([1, 16, 12.8, 4])
    # 64 passes of 5 GFLOP in 0.5 s are 640 of 1000 GFLOP/s.
    assert large["share_of_matrix_product"] == pytest.approx(0.64)
    assert small["share_of_matrix_product"] == pytest.approx(0.8)
    # Another type has another peak.
    assert plain["share_of_matrix_product"] is wide["share_of_matrix_product"] is None
    # 8 batches of 1 ms in 0.4 s; one batch of 0.32 s in 1.6 s.
    assert small["mask_share"]["median"] == pytest.approx(0.02)
    assert wide["mask_share"]["median"] == pytest.approx(0.2)


def test_verdicts_take_the_fastest_batch_and_the_peak_of_large_ones() -> None:
    rows, _ = measured()
    trt, cuda = verdicts(rows)
    assert (trt["engine"], trt["batch"], trt["ratio_reached"], trt["masks_reached"]) == ("trt", 8, True, True)
    assert trt["peak_share"] == pytest.approx(0.64), "batch 8 does not count"
    assert trt["peak_reached"]
    assert (cuda["ratio_reached"], cuda["masks_reached"], cuda["peak_reached"]) == (False, False, None)


def test_the_table_names_what_was_reached() -> None:
    rows, _ = measured()
    result = {
        "gpu": {"name": CARD.name},
        "matrix_product_gflops": {"median": 165_000.0},
        "cases": rows,
        "verdicts": verdicts(rows),
        "problems": {"trt-rtx": "engine trt-rtx: not installed"},
    }
    lines = table(result).splitlines()
    assert lines[0] == "NVIDIA RTX 4090: float16 matrix product 165.0 TFLOP/s"
    assert lines[3].split() == ["trt", "fp16", "8", "160.0", "16.00", "2.0%", "80.0%"]
    assert "trt fp16: ratio 16.0 (at least 8: reached), masks 2.0% (at most 10%: reached), peak 64.0%" in lines[6]
    assert "ort-cuda fp32: ratio 4.0 (at least 8: not reached), masks 20.0% (at most 10%: not reached)" in lines[7]
    assert lines[-1] == "trt-rtx: engine trt-rtx: not installed"


def test_the_ensemble_of_the_product_is_measured(tiny: Fitted, tiny_onnx: Path) -> None:
    class Narrow(CudaOnTheCpu):
        def largest_device_batch(self) -> int:
            return 2

    model = load_model(tiny_onnx)
    result = gpu.measure(
        BenchmarkModel("tiny", tiny.network, model), [model], [Narrow], FakeDevice(), size=(64, 64), batches=(1, 2, 4),
        passes=3, count=2,
    )  # fmt: skip
    assert [(row["engine"], row["batch"], row["passes_per_round"]) for row in result["cases"]] == [
        (PLAIN, 1, 3),
        ("ort-cuda", 1, 3),
        ("ort-cuda", 2, 4),
    ]
    assert result["problems"] == {"ort-cuda fp32 batch 4": "runs 2 at a time: the engine or its memory takes no more"}
    # The fake clock counts half a second for each.
    assert result["cases"][2]["ratio_to_plain"]["median"] == pytest.approx(4 / 3)


def test_without_a_gpu_it_says_so_and_ends_with_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = NoGpu(Obstacle.NO_DRIVER, "there is no NVIDIA driver", "It needs an NVIDIA GPU.")
    monkeypatch.setattr(gpu, "find_gpu", lambda: missing)
    assert gpu.main(["-o", str(tmp_path / "gpu.json")]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ("error: the GPU benchmark cannot run: there is no NVIDIA driver. It needs an NVIDIA GPU.\n")
    assert not list(tmp_path.iterdir())


def test_pytorch_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    monkeypatch.setattr(gpu, "find_gpu", lambda: CARD)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["-o", "unused.json"]) == 4
    assert "cannot use NVIDIA RTX 4090. Install PyTorch's build for CUDA" in capsys.readouterr().err
