"""The command line: options in, one job each, results out. No algorithm lives here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from self2self.console import Console, reported, standard_error_text
from self2self.errors import Self2SelfError, UsageError
from self2self.options import (
    AllowFallback,
    AsJson,
    Batch,
    Device,
    DropRate,
    EngineName,
    Flips,
    Force,
    ImageOutput,
    Init,
    Masks,
    MaskSource,
    Memory,
    Passes,
    Precision,
    Quiet,
    RecipeName,
    Report,
    Seed,
    Steps,
    Tolerance,
    Uncertainty,
    parse_batch,
    parse_batches,
    parse_masks,
    parse_memory,
    parse_passes,
    parse_side,
    parse_size,
)

if TYPE_CHECKING:
    from self2self.jobs import Finished

app = typer.Typer(
    name="self2self",
    help=(
        "Denoise an image with nothing but that image.\n\n"
        "self2self denoise photo.png fits a small network to the noisy image and averages many passes of it "
        "with live dropout. The fast recipe starts from weights that have seen other photographs; "
        "--init scratch starts from nothing."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(name="denoise")
@reported
def denoise_command(
    images: Annotated[list[Path], typer.Argument(help="Noisy images.", metavar="IMAGE...")],
    output: ImageOutput = None,
    recipe: RecipeName = "fast",
    init: Init = None,
    steps: Steps = None,
    drop_rate: DropRate = None,
    engine: EngineName = "auto",
    passes: Passes = None,
    tolerance: Tolerance = None,
    masks: Masks = None,
    flips: Flips = None,
    batch: Batch = "auto",
    memory: Memory = None,
    mask_source: MaskSource = "auto",
    allow_fallback: AllowFallback = False,
    uncertainty: Uncertainty = None,
    report: Report = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Run folder.  [default: runs/IMAGE-HASH]", show_default=False),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Denoise images: fit, export and infer in one go.

    An interrupted fit goes on where it stopped when the same command is given again.
    """
    from self2self.jobs import FitOptions, InferOptions, denoise_job

    console = Console(as_json=as_json, quiet=quiet)
    if run is not None and len(images) > 1:
        raise UsageError("--run works with one image at a time.")
    fitting = FitOptions(recipe, init, steps, drop_rate, seed, device, run)
    options = InferOptions(
        engine,
        parse_passes(passes),
        parse_batch(batch),
        seed,
        output,
        uncertainty,
        force,
        tolerance,
        parse_masks(masks),
        flips,
        parse_memory(memory),
        mask_source,
        allow_fallback,
        report,
    )
    options.check(images)
    finished: list[Finished] = []
    failed: Self2SelfError | None = None
    for path in images:
        try:
            with console.progress(path.name if len(images) > 1 else "") as observer:
                if len(images) > 1 and options.skips(path, observer):
                    continue
                finished.append(denoise_job(path, fitting, options, observer))
        except Self2SelfError as error:
            if len(images) == 1 or error.exit_code == 130:
                raise
            # The other images of the batch can still be done.
            console.error(str(error))
            failed = failed or error
            continue
        if not as_json:
            _print_finished(console, finished[-1:])
    if as_json:
        _print_finished(console, finished, many=len(images) > 1)
    if failed is not None:
        raise typer.Exit(failed.exit_code)


@app.command()
@reported
def fit(
    image: Annotated[Path, typer.Argument(help="Noisy image.")],
    run: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Run folder.  [default: runs/IMAGE-HASH]", metavar="RUN", show_default=False
        ),
    ] = None,
    recipe: RecipeName = "fast",
    init: Init = None,
    steps: Steps = None,
    drop_rate: DropRate = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted fit.")] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", help="Clean image, for PSNR and SSIM in the history; never fitted to.", metavar="CLEAN"
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit the network to one noisy image, into a run folder."""
    from self2self.jobs import FitOptions, fit_job

    if resume and force:
        raise UsageError("--resume continues a fit and --force starts it anew; give one of them.")
    console = Console(as_json=as_json, quiet=quiet)
    options = FitOptions(recipe, init, steps, drop_rate, seed, device, run)
    with console.progress() as observer:
        fitted = fit_job(image, options, resume=resume, force=force, reference=reference, observer=observer)
    text = f"{fitted.run.folder}: fitted in {fitted.steps} steps and {fitted.seconds:.1f} s, loss {fitted.loss:.4g}"
    if fitted.psnr is not None:
        text += f", PSNR {fitted.psnr:.2f} dB (4 passes)"
    if fitted.noise is not None:
        text += f"\n  noise of about {fitted.noise.sigma:.1f} grey levels"
    console.result(text, fitted.to_json())


@app.command()
@reported
def export(
    run: Annotated[Path | None, typer.Argument(help="Run folder.  [default: the latest]", show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The .onnx file.  [default: RUN/model.onnx]", metavar="FILE", show_default=False
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            help="Fix height and width, for example 512x768.  [default: any size]",
            metavar="HxW",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="Build an engine from the exported model ahead of time instead: trt or trt-rtx.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    minimum: Annotated[
        str | None,
        typer.Option("--min", help="Smallest size that the engine takes.", metavar="HxW", show_default=False),
    ] = None,
    maximum: Annotated[
        str | None,
        typer.Option("--max", help="Largest size that the engine takes.", metavar="HxW", show_default=False),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            "--batch",
            help="Least, best and most passes a run of the engine.  [default: 1,16,64]",
            metavar="N,N,N",
            show_default=False,
        ),
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            "--capability",
            help="Compute capability that a trt-rtx engine is for, such as 8.6; may be repeated.",
            metavar="N.N",
            show_default=False,
        ),
    ] = None,
    precision: Precision = "fp32",
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Clean image, to compare the PSNR of a half precision with fp32.",
            metavar="CLEAN",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Export a fit to one ONNX file whose dropout masks are inputs, and verify it against PyTorch.

    With --engine, build an engine of TensorRT from that file; --size is then what it is best for.
    """
    from self2self.jobs import EngineOptions, engine_job, export_job, precision_job
    from self2self.profiles import BATCHES
    from self2self.train.checkpoint import Run

    console = Console(as_json=as_json, quiet=quiet)
    if engine is not None and output is not None:
        raise UsageError("-o works without --engine alone; engines are kept in RUN/engines.")
    if engine is None and (minimum or maximum or batches or capability):
        raise UsageError(
            "--min, --max, --batch and --capability are for engines; add --engine trt or --engine trt-rtx."
        )
    if reference is not None and (precision == "fp32" or engine is not None):
        raise UsageError("--reference is for judging a half precision; add --precision fp16, without --engine.")
    folder = Run.latest() if run is None else Run(run)
    if engine is not None:
        options = EngineOptions(
            engine,
            parse_size(size),
            parse_size(minimum, "--min"),
            parse_size(maximum, "--max"),
            BATCHES if batches is None else parse_batches(batches),
            tuple(capability or ()),
            precision,
        )
        with console.progress() as observer:
            built = engine_job(folder, options, force=force, observer=observer)
        info = built.info
        done = f"built in {info.build_seconds:.1f} s" if built.built else "there already"
        console.result(
            f"{built.path}: {done}, {info.engine_bytes / 1e6:.1f} MB",
            {"run": str(folder.folder), "output": str(built.path), "built": built.built, **info.to_json()},
        )
        return
    text, extra = "", {}
    if precision == "fp32":
        path, check = export_job(folder, output, size=parse_size(size), force=force)
    else:
        from dataclasses import asdict

        path, check, compared = precision_job(
            folder, precision, output, size=parse_size(size), reference=reference, force=force
        )
        text = (
            f"; {precision} changes the mean of {compared.passes} passes by {compared.rms_difference:.3f} grey levels, "
            f"{compared.decibels:.4f} dB by the {compared.against} ({compared.measured_with}); largest activation "
            f"{compared.largest_activation:.3g} of {compared.largest_number:.5g}"
        )
        extra = {"compared": asdict(compared)}
    console.result(
        f"{path}: verified against PyTorch, largest difference {check.max_difference:.1e}, "
        f"RMS {check.rms_difference:.1e}{text}",
        {
            "run": str(folder.folder),
            "output": str(path),
            "precision": precision,
            **extra,
            "max_difference": check.max_difference,
            "rms_difference": check.rms_difference,
            "bytes": path.stat().st_size,
            "seconds": {"verify": check.seconds},
        },
    )


@app.command()
@reported
def infer(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A model (.onnx file or run folder) and images.  [default: the latest run, and its image]",
            metavar="[MODEL] [IMAGE...]",
            show_default=False,
        ),
    ] = None,
    output: ImageOutput = None,
    engine: EngineName = "auto",
    passes: Passes = None,
    tolerance: Tolerance = None,
    masks: Masks = None,
    flips: Flips = None,
    batch: Batch = "auto",
    memory: Memory = None,
    mask_source: MaskSource = "auto",
    allow_fallback: AllowFallback = False,
    uncertainty: Uncertainty = None,
    report: Report = None,
    seed: Seed = 0,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="Which model of the run: fp32, fp16 or bf16.", metavar="NAME", show_default=False
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the ensemble of an exported model over images."""
    from self2self.jobs import InferOptions, infer_job

    console = Console(as_json=as_json, quiet=quiet)
    options = InferOptions(
        engine,
        parse_passes(passes),
        parse_batch(batch),
        seed,
        output,
        uncertainty,
        force,
        tolerance,
        parse_masks(masks),
        flips,
        parse_memory(memory),
        mask_source,
        allow_fallback,
        report,
    )
    # Before any file: a wrong engine is the same mistake whether or not there is a model.
    options.check([])
    model, images = _model_and_images(paths or [], precision)
    with console.progress() as observer:
        finished = infer_job(model, images, options, observer)
    _print_finished(console, finished, many=len(images) > 1)


@app.command()
@reported
def engines(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Which engines work on this machine, and why the others do not."""
    from dataclasses import asdict

    from self2self.runtime.engine import engine_statuses

    statuses = engine_statuses()
    lines = [f"{s.name:10} {'works  ' if s.works else 'missing'}  {s.version or s.problem}" for s in statuses]
    Console(as_json=as_json, quiet=quiet).result("\n".join(lines), {"engines": [asdict(s) for s in statuses]})


@app.command()
@reported
def bench(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A model (.onnx file or run folder).  [default: random weights]", metavar="[MODEL]", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the JSON to FILE.", metavar="FILE", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write one page with charts to FILE.", metavar="FILE", show_default=False),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="Compare with the JSON of an earlier run, and name what became slower beyond noise.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            help="Side or height and width in pixels, multiples of 32 from 64 up; may be repeated.  "
            "[default: that of the run's image, else 128 and 256]",
            metavar="N|HxW",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            "--batch", help="Passes at a time; may be repeated.  [default: 1 and 4]", metavar="N", show_default=False
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            help="What to measure; may be repeated.  [default: all that work here]",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="How often everything takes its turn.")] = 7,
    passes: Annotated[int, typer.Option("--passes", help="Passes of each case in a round, at least.")] = 4,
    recipe: Annotated[
        str, typer.Option("--recipe", help="Whose network has random weights, without MODEL.", metavar="NAME")
    ] = "paper",
    curve: Annotated[
        int,
        typer.Option("--curve", help="Passes of the convergence curve of a run; 0 for none.", metavar="N"),
    ] = 100,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Clean image of the run, for PSNR against passes.", metavar="CLEAN"),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory, in a fresh process for each case.")
    ] = True,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure speed and memory of every engine that works here, against the plain PyTorch loop."""
    from self2self.bench.environment import shown_command
    from self2self.bench.table import text
    from self2self.jobs import BenchOptions, bench_job

    console = Console(as_json=as_json, quiet=quiet)
    options = BenchOptions(
        sizes=tuple(map(parse_side, size or ())),
        batches=tuple(batch or (1, 4)),
        engines=tuple(engine or ()),
        rounds=rounds,
        passes=passes,
        recipe=recipe,
        curve_passes=curve,
        reference=reference,
        memory=memory,
        output=output,
        html=html,
        against=against,
        force=force,
        command=shown_command("self2self"),
    )
    with console.progress() as observer:
        result = bench_job(model, options, observer)
    console.result(text(result), result)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options of the program itself."""
    if version:
        from self2self import __version__

        print(__version__)  # noqa: T201
        raise typer.Exit


def _model_and_images(paths: list[Path], precision: str | None) -> tuple[Path, list[Path]]:
    """Tell the model from the images; a model is a run folder or ends in .onnx."""
    from self2self.jobs import exported_path
    from self2self.train.checkpoint import Run

    if paths and paths[0].suffix == ".onnx":
        if precision is not None:
            raise UsageError(f"--precision chooses a model of a run; {paths[0]} is one already.")
        if len(paths) == 1:
            raise UsageError(f"which image? Type: self2self infer {paths[0]} IMAGE")
        return paths[0], paths[1:]
    run, images = (Run(paths[0]), paths[1:]) if paths and paths[0].is_dir() else (Run.latest(), paths)
    config = run.config()
    return exported_path(run, precision or "fp32"), images or [Path(config.image)]


def _print_finished(console: Console, finished: list[Finished], *, many: bool = False) -> None:
    lines = []
    for item in finished:
        done = item.denoised
        lines.append(
            f"{item.output}: {done.passes} passes in {item.seconds:.1f} s with {done.provider} "
            f"({done.passes_per_second:.1f} passes/s, standard error {standard_error_text(done.standard_error)})"
        )
        sigma = item.residual.noise.sigma if item.noise is None else item.noise.sigma
        lines.append(
            f"  noise of about {sigma:.1f} grey levels; removed: mean {item.residual.mean:+.2f}, "
            f"standard deviation {item.residual.standard_deviation:.1f}"
        )
    if many and not finished and not console.as_json:
        return
    values: Any = {"images": [item.to_json() for item in finished]} if many else finished[0].to_json()
    console.result("\n".join(lines), values)


def main() -> None:
    """Entry point of the `self2self` command."""
    app()
