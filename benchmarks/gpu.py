"""Passes per second of every GPU engine that works here, against the plain PyTorch loop on the same GPU.

    python -m benchmarks.gpu -o benchmarks/results/gpu.json     (or: make gpu-bench)

The paper's network with random weights at 256x256. In each round every engine, precision and batch
runs the product's own ensemble, masks, sums and all, and the plain loop (batch 1, eager float32 with
PyTorch's defaults, `F.dropout`) takes its turn among them; so do the masks alone, and the product of
two half precision matrices that is called the peak. All times are those of CUDA events around work
that was warmed up before. Without a GPU: one line and exit code 4.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.gpu_verdicts import entries, table, verdicts
from benchmarks.results_file import write_result
from self2self.bench.benchmark_model import BenchmarkModel, random_model
from self2self.bench.cases import PLAIN, BenchmarkCase, Timing, rotated, whole_batches
from self2self.bench.environment import environment, shown_command
from self2self.bench.measure import spread
from self2self.errors import EngineUnavailableError, Self2SelfError
from self2self.machine.nvidia import Gpu, NoGpu, find_gpu
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.registry import NEEDS_GPU, get_engine
from self2self.runtime.ensemble.device_loop import DeviceEngine, masks_for, run_device_ensemble
from self2self.runtime.model import Model, load_model
from self2self.train.recipes import recipe_for

SIZE = (256, 256)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PRECISIONS = ("fp32", "fp16")
PEAK_SIDE = 8192
PEAK_PRODUCTS = 10


class Device(Protocol):
    """What times work on a device."""

    name: str

    def seconds(self, work: Callable[[], object]) -> float:
        """How long the device needs for `work`, which may return before it is done."""

    def peak_gflops(self) -> float:
        """GFLOP/s of the product of two large float16 matrices."""


class CudaDevice:
    """CUDA device 0, timed by its events."""

    name = "cuda"

    def seconds(self, work: Callable[[], object]) -> float:
        """As `Device` says."""
        import torch

        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin.record()
        work()
        # The ensemble has streams of its own, which the event on this one does not wait for.
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
class Contender:
    """Something that takes part in every round.

    Attributes:
        case: collects its times.
        run: all its passes of one round.
        masks: makes the masks of one batch and nothing else; None for the plain loop.
    """

    case: BenchmarkCase
    run: Callable[[], object]
    masks: Callable[[], object] | None = None


def rounds(contenders: Sequence[Contender], device: Device, count: int) -> list[float]:
    """Run `count` rounds, fill the cases' laps, and give the peak of each round in GFLOP/s."""
    for contender in contenders:
        contender.run()
        if contender.masks is not None:
            contender.masks()
    device.peak_gflops()
    peaks = []
    for index in range(count):
        peaks.append(device.peak_gflops())
        for contender in rotated(contenders, index):
            case = contender.case
            seconds = device.seconds(contender.run)
            masks = 0.0
            if contender.masks is not None:
                masks = device.seconds(contender.masks) * case.passes / case.batch
            case.timings.append(Timing(seconds, masks=masks))
    return peaks


def engine_contenders(
    engine: Engine, device: Device, batches: Sequence[int], passes: int, problems: dict[str, str]
) -> list[Contender]:
    """One contender for each batch that a prepared `engine` can run; the others are noted in `problems`."""
    if not isinstance(engine, DeviceEngine):
        raise TypeError(f"{engine.name} takes no masks on a device")
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
            # Made for the call, as the buffers of all batches together would not fit.
            return maker.fill(maker.allocate(batch), 0, batch)

        found.append(Contender(case, run, masks))
    return found


def plain_contender(
    benchmark_model: BenchmarkModel, image: np.ndarray[Any, Any], device: Device, passes: int
) -> Contender:
    """The plain loop on the device."""
    import torch

    from self2self.bench.plain_loop import PlainSelf2Self, plain_ensemble

    network = PlainSelf2Self.from_network(benchmark_model.network).to(device.name).eval()
    drop_rate = 1 - benchmark_model.model.contract.masks[0].keep_probability
    shown = torch.from_numpy(image).to(device.name)
    case = BenchmarkCase(PLAIN, "PyTorch", "fp32", 1, (image.shape[2], image.shape[3]), passes)
    return Contender(case, lambda: plain_ensemble(network, shown, passes, drop_rate))


def models_of(benchmark_model: BenchmarkModel, folder: Path) -> list[Model]:
    """The subject's model in every precision."""
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
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Everything that is measured: the peak, the cases, the verdicts, and what did not work."""
    image = np.random.default_rng(0).random((1, benchmark_model.network.channels, *size), dtype=np.float32)
    problems: dict[str, str] = {}
    contenders = [plain_contender(benchmark_model, image, device, passes)]
    with ExitStack() as stack:
        for kind in engines:
            for model in models:
                label = f"{kind.name} {model.contract.precision}"
                tell(f"preparing {label}")
                try:
                    running = kind(model, image)
                    running.note = tell
                    running = stack.enter_context(running)
                except Self2SelfError as error:
                    problems[label] = str(error)
                    continue
                contenders += engine_contenders(running, device, batches, passes, problems)
        tell(f"{count} rounds of {len(contenders)} cases")
        peaks = rounds(contenders, device, count)
    rows = entries([contender.case for contender in contenders], peaks, benchmark_model.gflop_per_pass(size))
    return {
        "rounds": count,
        "gflop_per_pass": benchmark_model.gflop_per_pass(size),
        "matrix_product_gflops": spread(peaks),
        "cases": rows,
        "verdicts": verdicts(rows),
        "problems": problems,
    }


def require_cuda() -> Gpu:
    """The GPU that everything here runs on.

    Raises:
        EngineUnavailableError: there is none, or PyTorch cannot use it.
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
    """GPU engines that work here; why the others do not is noted in `problems`."""
    found = []
    for name in NEEDS_GPU:
        try:
            found.append(get_engine(name))
        except EngineUnavailableError as error:
            problems[name] = str(error)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=64, help="of each case in a round, at least")
    args = parser.parse_args(arguments)

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        gpu = require_cuda()
    except EngineUnavailableError as error:
        tell(f"error: {error}")
        return error.exit_code
    missing: dict[str, str] = {}
    engines = working_engines(missing)
    with tempfile.TemporaryDirectory() as folder:
        benchmark_model = random_model(recipe_for("paper"), Path(folder))
        models = models_of(benchmark_model, Path(folder))
        result = measure(
            benchmark_model, models, engines, CudaDevice(), passes=args.passes, count=args.rounds, tell=tell
        )
    result["problems"] = missing | result["problems"]
    described = {"name": gpu.name, "capability": gpu.capability, "memory_bytes": gpu.memory_bytes}
    result = {
        "command": shown_command("python -m benchmarks.gpu"),
        **environment(),
        "gpu": {**described, "driver_cuda": "{}.{}".format(*gpu.cuda)},
        "plain_loop_tf32": plain_tf32(),
        **result,
    }
    print(table(result))
    write_result(args.output, result)
    return 0


def plain_tf32() -> dict[str, bool]:
    """Where PyTorch's defaults let the plain loop round float32 to TF32."""
    import torch

    return {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32}


if __name__ == "__main__":
    sys.exit(main())
