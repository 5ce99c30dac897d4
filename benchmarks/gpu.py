"""Measure passes per second of every GPU engine that works here, and of the plain PyTorch loop on the same GPU.

    python -m benchmarks.gpu -o benchmarks/results/gpu.json     (or: make gpu-bench)

The network is the paper's, with random weights, at 256x256. In each round, every case (an engine with a precision and
a batch) runs the product's own ensemble, including masks and sums. The plain loop (batch 1, eager float32 with
PyTorch's defaults, `F.dropout`) is one of the cases. Each round also measures the masks of each case alone, and the
product of two float16 matrices, which is called the peak. CUDA events measure all times, after a warm-up. Without a
GPU, the program prints one line and ends with exit code 4.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.gpu_verdicts import entries, table, verdicts
from benchmarks.results_file import provenance, result_parser, write_result
from self2self.bench.benchmark_model import BenchmarkModel, random_model
from self2self.bench.cases import PLAIN, BenchmarkCase, Timing, rotated, whole_batches
from self2self.bench.measure import spread
from self2self.errors import EngineUnavailableError, Self2SelfError
from self2self.machine.nvidia import Gpu, NoGpu, find_gpu
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.registry import NEEDS_GPU, get_engine
from self2self.runtime.ensemble.device_engine import DeviceEngine, masks_for
from self2self.runtime.ensemble.device_loop import run_device_ensemble
from self2self.runtime.model import Model, load_model
from self2self.train.recipes import recipe_for

SIZE = (256, 256)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PRECISIONS = ("fp32", "fp16")
PEAK_SIDE = 8192
PEAK_PRODUCTS = 10


class Device(Protocol):
    """A clock for work on a device."""

    name: str

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds that the device needs for `work`, which may return before the device has finished."""

    def peak_gflops(self) -> float:
        """Return GFLOP/s of the product of two large float16 matrices."""


class CudaDevice:
    """CUDA device 0, with CUDA events as clock."""

    name = "cuda"

    def seconds(self, work: Callable[[], object]) -> float:
        """As `Device` says."""
        import torch

        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin.record()
        work()
        # The ensemble runs on streams of its own; an event on this stream does not wait for them.
        torch.cuda.synchronize()
        end.record()
        end.synchronize()
        return 1e-3 * float(begin.elapsed_time(end))

    def peak_gflops(self) -> float:
        """As `Device` says."""
        import torch

        a, b = (torch.randn(PEAK_SIDE, PEAK_SIDE, dtype=torch.float16, device=self.name) for _ in range(2))
        product = a @ b

        def work() -> None:
            for _ in range(PEAK_PRODUCTS):
                torch.mm(a, b, out=product)

        return 2e-9 * PEAK_SIDE**3 * PEAK_PRODUCTS / self.seconds(work)


@dataclass(frozen=True, slots=True)
class CaseRunner:
    """One case with the functions that run it in a round.

    Attributes:
        case: the case, which collects the timings.
        run: runs all passes of one round.
        masks: draws the masks of one batch and nothing else; None for the plain loop.
    """

    case: BenchmarkCase
    run: Callable[[], object]
    masks: Callable[[], object] | None = None


def rounds(runners: Sequence[CaseRunner], device: Device, count: int) -> list[float]:
    """Run `count` rounds, add a timing to each case in each of them, and return the peaks of the rounds in GFLOP/s."""
    for runner in runners:
        runner.run()
        if runner.masks is not None:
            runner.masks()
    device.peak_gflops()
    peaks = []
    for index in range(count):
        peaks.append(device.peak_gflops())
        for runner in rotated(runners, index):
            case = runner.case
            seconds = device.seconds(runner.run)
            masks = 0.0
            if runner.masks is not None:
                masks = device.seconds(runner.masks) * case.passes / case.batch
            case.timings.append(Timing(seconds, masks=masks))
    return peaks


def engine_runners(
    engine: Engine, device: Device, batches: Sequence[int], passes: int, problems: dict[str, str]
) -> list[CaseRunner]:
    """Return a runner for each batch that the prepared `engine` can run; `problems` gets reasons for the others."""
    if not isinstance(engine, DeviceEngine):
        raise TypeError(f"engine {engine.name} accepts no masks on a device")
    contract = engine.model.contract
    size = (engine.image.shape[2], engine.image.shape[3])
    maker = masks_for(engine, 0)
    found = []
    for batch in batches:
        label = f"{engine.name} {contract.precision} batch {batch}"
        try:
            ran = run_device_ensemble(engine, maker, batch, batch=batch)
        except Self2SelfError as error:
            problems[label] = str(error)
            continue
        if ran.batch != batch:
            problems[label] = f"runs {ran.batch} at a time: the engine or its memory takes no more"
            continue
        total = whole_batches(passes, batch)
        case = BenchmarkCase(engine.name, engine.provider(), contract.precision, batch, size, total)

        def run(batch: int = batch, total: int = total, label: str = label) -> object:
            def note(text: str) -> None:
                problems[label] = f"not a figure of this batch: {text}"

            return run_device_ensemble(engine, maker, total, batch=batch, on_note=note)

        def masks(batch: int = batch) -> object:
            # Allocated in each call, because the buffers of all batches together would not fit into memory.
            return maker.fill(maker.allocate(batch), 0, batch)

        found.append(CaseRunner(case, run, masks))
    return found


def plain_runner(
    benchmark_model: BenchmarkModel, image: np.ndarray[Any, Any], device: Device, passes: int
) -> CaseRunner:
    """Return the runner of the plain loop on the device."""
    import torch

    from self2self.bench.plain_loop import PlainSelf2Self, plain_ensemble

    network = PlainSelf2Self.from_network(benchmark_model.network).to(device.name).eval()
    drop_rate = 1 - benchmark_model.model.contract.masks[0].keep_probability
    pixels = torch.from_numpy(image).to(device.name)
    case = BenchmarkCase(PLAIN, "PyTorch", "fp32", 1, (image.shape[2], image.shape[3]), passes)
    return CaseRunner(case, lambda: plain_ensemble(network, pixels, passes, drop_rate))


def models_of(benchmark_model: BenchmarkModel, folder: Path) -> list[Model]:
    """Export the benchmark model in every precision."""
    from self2self.export.to_onnx import to_onnx

    models = []
    for precision in PRECISIONS:
        path = folder / f"model.{precision}.onnx"
        to_onnx(benchmark_model.network, replace(benchmark_model.model.contract, precision=precision), path)
        models.append(load_model(path))
    return models


def measure(
    benchmark_model: BenchmarkModel,
    models: Sequence[Model],
    engines: Sequence[type[Engine]],
    device: Device,
    *,
    size: tuple[int, int] = SIZE,
    batches: Sequence[int] = BATCHES,
    passes: int = 64,
    count: int = 5,
    on_note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run all rounds; return the peak, the cases, the verdicts, and the reasons for missing cases."""
    image = np.random.default_rng(0).random((1, benchmark_model.network.channels, *size), dtype=np.float32)
    problems: dict[str, str] = {}
    runners = [plain_runner(benchmark_model, image, device, passes)]
    with ExitStack() as stack:
        for kind in engines:
            for model in models:
                label = f"{kind.name} {model.contract.precision}"
                on_note(f"preparing {label}")
                try:
                    running = kind(model, image)
                    running.note = on_note
                    running = stack.enter_context(running)
                except Self2SelfError as error:
                    problems[label] = str(error)
                    continue
                runners += engine_runners(running, device, batches, passes, problems)
        on_note(f"{count} rounds of {len(runners)} cases")
        peaks = rounds(runners, device, count)
    rows = entries([runner.case for runner in runners], peaks, benchmark_model.gflop_per_pass(size))
    return {
        "rounds": count,
        "gflop_per_pass": benchmark_model.gflop_per_pass(size),
        "matrix_product_gflops": spread(peaks),
        "cases": rows,
        "verdicts": verdicts(rows),
        "problems": problems,
    }


def require_cuda() -> Gpu:
    """Return the GPU of this machine.

    Raises:
        EngineUnavailableError: there is no GPU, or PyTorch cannot use it.
    """
    found = find_gpu()
    if isinstance(found, NoGpu):
        raise EngineUnavailableError(f"the GPU benchmark cannot run: {found.reason}. {found.remedy}")
    import torch

    if not torch.cuda.is_available():
        raise EngineUnavailableError(
            f"the GPU benchmark cannot run: PyTorch {torch.__version__} cannot use {found.name}. "
            "Install PyTorch's build for CUDA: pip install --force-reinstall torch."
        )
    return found


def working_engines(problems: dict[str, str]) -> list[type[Engine]]:
    """Return the GPU engines that work here; `problems` gets the reasons for the others."""
    found = []
    for name in NEEDS_GPU:
        try:
            found.append(get_engine(name))
        except EngineUnavailableError as error:
            problems[name] = str(error)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    parser = result_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=64, help="minimum number of passes of each case in a round")
    args = parser.parse_args(arguments)

    def show(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        gpu = require_cuda()
    except EngineUnavailableError as error:
        show(f"error: {error}")
        return error.exit_code
    missing: dict[str, str] = {}
    engines = working_engines(missing)
    with tempfile.TemporaryDirectory() as folder:
        benchmark_model = random_model(recipe_for("paper"), Path(folder))
        models = models_of(benchmark_model, Path(folder))
        result = measure(
            benchmark_model, models, engines, CudaDevice(), passes=args.passes, count=args.rounds, on_note=show
        )
    result["problems"] = missing | result["problems"]
    result = {
        **provenance("gpu"),
        "gpu": {**gpu_fields(gpu), "driver_cuda": "{}.{}".format(*gpu.cuda)},
        "plain_loop_tf32": plain_tf32(),
        **result,
    }
    print(table(result))
    write_result(args.output, result)
    return 0


def gpu_fields(gpu: Gpu) -> dict[str, Any]:
    """Describe the GPU for a result."""
    return {"name": gpu.name, "capability": gpu.capability, "memory_bytes": gpu.memory_bytes}


def plain_tf32() -> dict[str, bool]:
    """Return the operations in which PyTorch's defaults let the plain loop round float32 to TF32."""
    import torch

    return {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32}


if __name__ == "__main__":
    sys.exit(main())
