"""Run the rounds at one image size: in each round, every case and the plain loop run once.

Each case is warmed up at the size and batch that are measured. In a round all cases run the same number of passes,
rounded up to whole batches. A pause separates two cases, because the thread pools of two libraries compete for the
CPUs. The order rotates from round to round. The plain loop is one of the cases, so a ratio compares two timings of the
same round. The speed of PyTorch's matrix product, measured in the same rounds, serves as ceiling; an engine with a
faster algorithm than direct convolution may exceed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.bench import measure
from self2self.bench.benchmark_model import BenchmarkModel
from self2self.bench.cases import PLAIN, BenchmarkCase, Timing, rotated, whole_batches
from self2self.errors import Self2SelfError
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.registry import NEEDS_GPU, engine_class
from self2self.runtime.ensemble.device_loop import ensemble_on
from self2self.runtime.ensemble.host_loop import PassesResult

if TYPE_CHECKING:
    from self2self.bench.plain_loop import PlainSelf2Self


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """The cases of a benchmark and the number of rounds.

    Attributes:
        engines: names of engines that work here.
        batches: batch sizes, each in passes per run of the engine.
        passes: minimum number of passes of each case in a round.
        rounds: number of rounds.
        strict: whether an engine that cannot run the model is an error; true where the user named the engines.
    """

    engines: Sequence[str]
    batches: Sequence[int]
    passes: int
    rounds: int
    strict: bool = False

    def steps(self) -> int:
        """Return the largest number of timings that one size can have."""
        return self.rounds * (1 + len(self.engines) * len(self.batches))


@dataclass(slots=True)
class SizeResult:
    """The measurements at one image size.

    Attributes:
        size: (height, width) in pixels.
        gflop: operations of direct convolution in one pass, in 10^9.
        peaks: GFLOP/s of the matrix product, one for each round.
        cases: all cases; the first is the plain loop.
        problems: reasons for missing figures, by engine or by engine and batch.
    """

    size: tuple[int, int]
    gflop: float
    peaks: list[float] = field(default_factory=list)
    cases: list[BenchmarkCase] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Describe the size for the JSON document; the cases are in `entries`."""
        height, width = self.size
        return {
            "height": height,
            "width": width,
            "gflop_per_pass": self.gflop,
            "matrix_product_gflops": measure.spread(self.peaks),
        }

    def entries(self) -> list[dict[str, Any]]:
        """Compute the figures of every case for the JSON document."""
        peak = measure.spread(self.peaks)["median"]
        plain = self.cases[0]
        # The matrix product ran on the CPU, so it is no ceiling for a GPU.
        return [case.entry(plain, self.gflop, None if case.engine in NEEDS_GPU else peak) for case in self.cases]


def run_size(
    benchmark_model: BenchmarkModel,
    size: tuple[int, int],
    plan: RoundPlan,
    on_case: Callable[[str], None] = lambda case: None,
) -> SizeResult:
    """Run all rounds at one size.

    Args:
        benchmark_model: the network.
        size: (height, width) in pixels, a size that the model accepts.
        plan: engines, batches, passes and rounds.
        on_case: called before every timing with size and engine, for example "256x256 ort".

    Raises:
        Self2SelfError: an engine cannot run the model, and the plan is strict.
    """
    result = SizeResult(size, benchmark_model.gflop_per_pass(size))
    model = benchmark_model.model
    image = np.random.default_rng(0).random((1, model.contract.channels, *size), dtype=np.float32)
    with ExitStack() as stack:
        runners: list[tuple[BenchmarkCase, Callable[[], Timing]]] = [_plain_runner(benchmark_model, image, plan)]
        for name in plan.engines:
            try:
                runners += _engine_runners(stack, benchmark_model, name, image, plan, result.problems)
            except Self2SelfError as error:
                if plan.strict:
                    raise
                result.problems[name] = str(error)
        for index in range(plan.rounds):
            measure.idle()
            result.peaks.append(measure.peak_gflops())
            for case, run in rotated(runners, index):
                on_case(f"{size[0]}x{size[1]} {case.engine}")
                measure.idle()
                case.timings.append(run())
    result.cases = [case for case, _ in runners]
    return result


def _plain_runner(
    benchmark_model: BenchmarkModel, image: np.ndarray[Any, Any], plan: RoundPlan
) -> tuple[BenchmarkCase, Callable[[], Timing]]:
    """Return the warmed-up case of the plain loop: batch 1, eager, contiguous tensors, masks drawn by PyTorch."""
    import torch

    from self2self.bench.plain_loop import PlainSelf2Self

    network: PlainSelf2Self = PlainSelf2Self.from_network(benchmark_model.network).eval()
    pixels = torch.from_numpy(image)
    drop_rate = 1.0 - benchmark_model.model.contract.masks[0].keep_probability
    case = BenchmarkCase(PLAIN, "PyTorch CPU", "fp32", 1, (image.shape[2], image.shape[3]), plan.passes)

    def run(passes: int) -> Timing:
        from self2self.bench.plain_loop import plain_ensemble

        start = time.perf_counter()
        plain_ensemble(network, pixels, passes, drop_rate)
        return Timing(time.perf_counter() - start)

    run(1)
    return case, lambda: run(plan.passes)


def _engine_runners(
    stack: ExitStack,
    benchmark_model: BenchmarkModel,
    name: str,
    image: np.ndarray[Any, Any],
    plan: RoundPlan,
    problems: dict[str, str],
) -> list[tuple[BenchmarkCase, Callable[[], Timing]]]:
    """Return a warmed-up case for each batch; each has an engine of its own, which stays open until `stack` closes."""
    runners: list[tuple[BenchmarkCase, Callable[[], Timing]]] = []
    size = (image.shape[2], image.shape[3])
    for batch in plan.batches:
        with ExitStack() as own:
            measure.idle()
            start = time.perf_counter()
            # An engine that has run other batches may keep buffers for them, so each batch has a new engine.
            engine = own.enter_context(engine_class(name)(benchmark_model.model, image))
            seconds = time.perf_counter() - start
            passes = whole_batches(plan.passes, batch)
            ensemble = ensemble_on(engine, 0)
            warm = ensemble(batch, batch)
            if warm.batch != batch:
                problems[f"{name} with batch {batch}"] = f"does not fit into memory at {size[0]}x{size[1]}"
                continue
            precision = benchmark_model.model.contract.precision
            case = BenchmarkCase(name, engine.provider(), precision, batch, size, passes, prepare_seconds=seconds)
            runners.append((case, partial(timing_of, engine, ensemble, passes, batch)))
            stack.push(own.pop_all())
    return runners


def timing_of(engine: Engine, ensemble: Callable[[int, int], PassesResult], passes: int, batch: int) -> Timing:
    """Run the ensemble of the engine once, and return the time of each part."""
    copied = engine.copy_seconds
    done = ensemble(passes, batch)
    copies = None if copied is None or engine.copy_seconds is None else engine.copy_seconds - copied
    return Timing(
        seconds=done.mask_seconds + done.pass_seconds + done.reduce_seconds,
        masks=done.mask_seconds,
        copies=copies,
        compute=done.pass_seconds - (copies or 0.0),
        reduction=done.reduce_seconds,
    )
