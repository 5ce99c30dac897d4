"""Made-up results of `self2self bench`."""

from __future__ import annotations

from typing import Any

from self2self.bench.cases import PLAIN, BenchmarkCase, Timing
from self2self.bench.compare import BENCHMARK, SCHEMA

GFLOP, PEAK = 10.0, 50.0
MEMORY = {
    "interpreter_bytes": 10_000_000,
    "loaded_bytes": 60_000_000,
    "peak_bytes": 110_000_000,
    "growth_bytes": 100_000_000,
    "device_bytes": None,
}


def plain_case(seconds: list[float], size: tuple[int, int] = (64, 96), passes: int = 4) -> BenchmarkCase:
    """The plain loop."""
    return BenchmarkCase(
        PLAIN, "PyTorch CPU", "fp32", 1, size, passes, memory=MEMORY, timings=[Timing(s) for s in seconds]
    )


def engine_case(
    engine: str, seconds: list[float], batch: int = 1, size: tuple[int, int] = (64, 96), passes: int = 4
) -> BenchmarkCase:
    """An engine that spends a tenth of its time on masks, a fifth on copies and a hundredth on reduction."""
    timings = [Timing(s, 0.1 * s, 0.2 * s, 0.69 * s, 0.01 * s) for s in seconds]
    return BenchmarkCase(engine, engine.upper(), "fp32", batch, size, passes, 0.5, MEMORY, timings)


def a_result(engine_seconds: dict[tuple[str, int], list[float]], curve: bool = True) -> dict[str, Any]:
    """A complete JSON document: the plain loop takes 2 s in every round; `engine_seconds` are those of the engines."""
    rounds = len(next(iter(engine_seconds.values())))
    plain = plain_case([2.0] * rounds)
    cases = [plain, *(engine_case(name, seconds, batch) for (name, batch), seconds in engine_seconds.items())]
    peak = {"median": PEAK, "p10": 49.0, "p90": 51.0, "min": 48.0, "max": 52.0}
    return {
        "benchmark": BENCHMARK,
        "schema": SCHEMA,
        "command": "self2self bench",
        "environment": {
            "cpu": "Abacus <1>",
            "cpus": 2,
            "threads": 2,
            "gpu": None,
            "python": "3.11.0",
            "versions": {"torch": "2.0"},
        },
        "model": {
            "source": "random weights",
            "recipe": "paper",
            "precision": "fp32",
            "channels": 3,
            "encoder_width": 48,
            "decoder_widths": [96] * 5,
            "parameters": 1_253_571,
        },
        "engines": {name: f"{name} 1.0" for name, _ in engine_seconds},
        "unavailable": {"trt": "engine trt: no GPU."},
        "problems": {},
        "rounds": rounds,
        "sizes": [{"height": 64, "width": 96, "gflop_per_pass": GFLOP, "matrix_product_gflops": peak}],
        "cases": [case.entry(plain, GFLOP, PEAK) for case in cases],
        "convergence": {
            "engine": "ort",
            "recipe": "fast",
            "height": 256,
            "width": 256,
            "balanced_masks": True,
            "flips": False,
            "passes": [1, 2, 5, 10],
            "distance_grey_levels": [4.0, 2.5, 1.25, None],
            "psnr": [24.0, 26.0, 28.0, 28.5],
        }
        if curve
        else None,
        "against": None,
    }
