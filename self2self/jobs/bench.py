"""`self2self bench`: compare every engine that works on this machine with the plain PyTorch loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.bench.benchmark_model import BenchmarkModel, model_from_file, random_model
from self2self.bench.cases import PLAIN
from self2self.bench.compare import BENCHMARK, SCHEMA, compare, load_result
from self2self.bench.convergence import convergence
from self2self.bench.environment import environment
from self2self.bench.memory import measure_memory
from self2self.bench.page import page
from self2self.bench.rounds import RoundPlan, run_size
from self2self.errors import InputError, InterruptedRun, UsageError, typed
from self2self.image_io import Image
from self2self.imaging.padding import padded_size
from self2self.jobs.fit import read_fitted_image, read_reference
from self2self.jobs.job_key import settings_key
from self2self.jobs.observer import Observer
from self2self.machine.files import atomic_write, check_new, scratch_folder
from self2self.machine.marks import Mark, read_mark
from self2self.machine.nvidia import Gpu, find_gpu
from self2self.model.contract import MINIMUM_SIZE, SIZE_MULTIPLE
from self2self.report.html import check_available
from self2self.runtime.engines.registry import engine_class, engine_statuses
from self2self.runtime.model import load_model
from self2self.train.recipes import recipe_for
from self2self.train.run_folder import Run

Size = tuple[int, int]

DEFAULT_SIZES: tuple[Size, ...] = ((128, 128), (256, 256))
_NOT_MEASURED = {"output", "html", "force", "command"}
"""Options that leave the measurement as it is."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and where to write the results.

    Attributes:
        sizes: (height, width) of each size; empty for the model's only size, the size of the run's image, or
            `DEFAULT_SIZES`.
        batches: batch sizes, in passes.
        engines: names of engines; empty for all that work here.
        rounds: number of rounds; in each round, every case runs once.
        passes: smallest number of passes of each case in a round.
        recipe: recipe of the network with random weights that is measured if there is no model.
        curve_passes: number of passes of the convergence curve of a run; 0 for no curve.
        curve_run: run folder for the convergence curve; None for the folder that is measured.
        reference: clean image of the run.
        memory: whether to measure peak memory.
        output, html: files of the JSON document and of the page; None for none.
        against: an earlier JSON document to compare with; None for none.
        force: whether existing files may be replaced.
        command: the command as the user typed it, for the result.
    """

    sizes: tuple[Size, ...] = ()
    batches: tuple[int, ...] = (1, 4)
    engines: tuple[str, ...] = ()
    rounds: int = 7
    passes: int = 4
    recipe: str = "paper"
    curve_passes: int = 100
    curve_run: Path | None = None
    reference: Path | None = None
    memory: bool = True
    output: Path | None = None
    html: Path | None = None
    against: Path | None = None
    force: bool = False
    command: str = "self2self bench"

    def has(self, path: Path, job: str) -> bool:
        """Whether an earlier run of the same command, whose key is `job`, has written `path`."""
        return not self.force and read_mark(path, job) is not None

    def check(self, job: str = "") -> None:
        """Refuse options that cannot work, before the first slow step; files of the same `job` are no obstacle.

        Raises:
            UsageError, OutputError, EngineUnavailableError: names the wrong option.
        """
        for option, least, value in (
            (typed("--rounds"), 1, self.rounds),
            (typed("--passes"), 1, self.passes),
            (typed("--curve"), 0, self.curve_passes),
            *((typed("--batch"), 1, batch) for batch in self.batches),
        ):
            if value < least:
                raise UsageError(f"{option} is {value}; expected at least {least}.")
        for height, width in self.sizes:
            _check_size(height, width)
        recipe_for(self.recipe)
        for name in self.engines:
            engine_class(name).version()
        if self.html is not None:
            check_available(f"{typed('--html', self.html)}")
            if self.output is not None and self.html.resolve() == self.output.resolve():
                raise UsageError(
                    f"{typed('-o')} and {typed('--html')} are both {self.html}. Choose another name for one of them."
                )
        for option, path in ((typed("-o"), self.output), (typed("--html"), self.html)):
            if path is not None:
                force = self.force or self.has(path, job)
                check_new(path, force=force, option=option, instead="choose another name")


def bench_job(model: Path | None, options: BenchOptions, observer: Observer) -> dict[str, Any]:
    """`self2self bench`: measure, write the requested files, and return the JSON document.

    Args:
        model: an .onnx file or a run folder; None for the recipe's network with random weights.
        options: what to measure.
        observer: gets the progress, and notes about what could not be measured.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    job = _job(model, options)
    options.check(job)
    earlier = None if options.against is None else load_result(options.against)
    if (done := _earlier_result(options, job)) is not None:
        return done
    try:
        with scratch_folder() as folder:
            result = _measure(model, options, observer, folder)
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; nothing was written.") from None
    if earlier is not None and options.against is not None:
        result["against"] = {"file": options.against.name, **compare(earlier, result)}
    if options.output is not None:
        atomic_write(options.output, json.dumps(result, indent=2).encode() + b"\n", mark=Mark(job))
    if options.html is not None:
        atomic_write(options.html, page(result).encode(), mark=Mark(job))
    return result


def _job(model: Path | None, options: BenchOptions) -> str:
    """What decides the measurement: the options, without its files, and the files that it reads; empty if unknown."""
    files = {"model": model and _plain_file(model), "curve": options.curve_run and _plain_file(options.curve_run)}
    files |= {"reference": options.reference, "against": options.against}
    settings = {name: value for name, value in asdict(options).items() if name not in _NOT_MEASURED}
    # A file that is missing or damaged is reported where it is read.
    with suppress(OSError):
        return settings_key("bench", {name: path for name, path in files.items() if path is not None}, **settings)
    return ""


def _plain_file(model: Path) -> Path:
    return Run(model).onnx_path if model.is_dir() else model


def _earlier_result(options: BenchOptions, job: str) -> dict[str, Any] | None:
    """What the same command has measured before; its page is made of that where it is missing. None: nothing yet."""
    has_page = options.html is None or options.has(options.html, job)
    if options.output is None:
        is_done = options.html is not None and has_page
        return {"benchmark": BENCHMARK, "html": str(options.html), "done_already": True} if is_done else None
    if not options.has(options.output, job):
        return None
    result = load_result(options.output)
    if options.html is not None and not has_page:
        atomic_write(options.html, page(result).encode(), mark=Mark(job))
    return {**result, "done_already": True}


def _measure(model: Path | None, options: BenchOptions, observer: Observer, folder: Path) -> dict[str, Any]:
    import torch

    run = options.curve_run or model
    image, clean = _images(run, options)
    # A missing or damaged model is refused before the first slow step.
    fitted = None if image is None or run is None else load_model(_model_file(run))
    benchmark_model = (
        random_model(recipe_for(options.recipe), folder) if model is None else model_from_file(_model_file(model))
    )
    sizes = options.sizes or _default_sizes(benchmark_model, None if options.curve_run else image)
    for size in sizes:
        if benchmark_model.model.size not in (None, size):
            height, width = benchmark_model.model.size or size
            raise UsageError(
                f"{model} is fixed to {height}x{width}. Leave out {typed('--size')}, or export it for all sizes."
            )
    statuses = {status.name: status for status in engine_statuses()}
    names = list(dict.fromkeys(options.engines)) or [name for name, status in statuses.items() if status.works]
    plan = RoundPlan(names, sorted(set(options.batches)), options.passes, options.rounds, strict=bool(options.engines))
    gpu = find_gpu()
    result: dict[str, Any] = {
        "benchmark": BENCHMARK,
        "schema": SCHEMA,
        "command": options.command,
        "environment": {
            **environment(),
            "threads": torch.get_num_threads(),
            "gpu": gpu.name if isinstance(gpu, Gpu) else None,
        },
        "model": benchmark_model.to_json(),
        "engines": {name: statuses[name].version for name in names},
        "unavailable": {name: status.problem for name, status in statuses.items() if not status.works},
        "problems": {},
        "rounds": options.rounds,
        "sizes": [],
        "cases": [],
        "convergence": None,
        "against": None,
    }
    report_step = _step_reporter(observer, len(sizes) * (plan.steps() + options.memory * plan.steps() // plan.rounds))
    for size in dict.fromkeys(sizes):
        measured = run_size(benchmark_model, size, plan, report_step)
        for name, problem in measured.problems.items():
            observer.note(f"{name}: {problem}")
            result["problems"][name] = problem
        if options.memory:
            for case in measured.cases:
                report_step(f"{size[0]}x{size[1]} memory of {case.engine}")
                memory = measure_memory(case.engine, benchmark_model.model.path, size, case.batch)
                if isinstance(memory, str):
                    observer.note(f"peak memory of {case.engine} with batch {case.batch}: {memory}")
                else:
                    case.memory = memory
        result["sizes"].append(measured.to_json())
        result["cases"] += measured.entries()
    if image is not None and fitted is not None and options.curve_passes:
        result["convergence"] = convergence(
            fitted,
            image.pixels,
            _fastest(result["cases"], names),
            options.curve_passes,
            reference=clean,
            black_and_white=image.black_and_white,
            on_progress=lambda moments: observer.pass_run(moments, options.curve_passes),
        )
    return result


def _images(run: Path | None, options: BenchOptions) -> tuple[Image | None, NDArray[np.float32] | None]:
    """Read the noisy image of a run, and the clean image in the same units, if there is one.

    Raises:
        UsageError, InputError: there is a reference without a run, or the reference has another shape.
    """
    if run is None or not run.is_dir():
        if options.curve_run is not None:
            raise UsageError(
                f"{typed('--curve-of', run)}: is no run folder. Make one: self2self denoise IMAGE --run {run}"
            )
        if options.reference is not None:
            raise UsageError(f"{typed('--reference')} works with a run folder: self2self bench RUN --reference CLEAN")
        return None, None
    image = read_fitted_image(Run(run).config())
    return image, None if options.reference is None else read_reference(options.reference, image)


def _model_file(model: Path) -> Path:
    """The .onnx file of a run folder, or the file itself.

    Raises:
        InputError: the run has not been exported yet.
    """
    if not model.is_dir():
        return model
    run = Run(model)
    run.config()
    if not run.onnx_path.is_file():
        raise InputError(f"{model}: has no {run.onnx_path.name} yet. Make it: self2self export {model}")
    return run.onnx_path


def _default_sizes(benchmark_model: BenchmarkModel, image: Image | None) -> tuple[Size, ...]:
    if benchmark_model.model.size is not None:
        return (benchmark_model.model.size,)
    if image is None:
        return DEFAULT_SIZES
    contract = benchmark_model.model.contract
    height, width = image.pixels.shape[1:]
    return (padded_size(height, width, contract.size_multiple, contract.minimum_size),)


def _fastest(cases: list[dict[str, Any]], names: list[str]) -> str:
    engines = [case for case in cases if case["engine"] != PLAIN]
    if not engines:
        return names[0]
    return str(max(engines, key=lambda case: case["ratio_to_plain"]["median"])["engine"])


def _step_reporter(observer: Observer, total: int) -> Callable[[str], None]:
    done = 0

    def report_step(name: str) -> None:
        nonlocal done
        observer.benchmark_step(name, done, total)
        done += 1

    return report_step


def _check_size(height: int, width: int) -> None:
    if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or min(height, width) < MINIMUM_SIZE:
        near = "x".join(map(str, padded_size(height, width)))
        raise UsageError(
            f"{typed('--size')} is {height}x{width}; expected multiples of {SIZE_MULTIPLE} from {MINIMUM_SIZE} up, "
            f"for example {typed('--size', near)}."
        )
