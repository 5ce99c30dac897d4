"""The command `self2self bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from self2self.cli.console import DONE_ALREADY, Console, exits_with_code
from self2self.cli.options import AsJson, Force, Quiet, parse_side
from self2self.errors import UsageError


@exits_with_code
def bench(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A model (.onnx file or run folder).  [default: random weights]",
            metavar="[MODEL]",
            show_default=False,
            readable=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write the result as JSON to FILE.",
            metavar="FILE",
            show_default=False,
            readable=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            help="Write the result as an HTML page with charts to FILE.",
            metavar="FILE",
            show_default=False,
            readable=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="JSON of an earlier run; list the cases that became slower or faster beyond noise.",
            metavar="FILE",
            show_default=False,
            readable=False,
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            help="Image size in pixels: one side, or height and width; multiples of 32, at least 64. May be repeated.  "
            "[default: the size of the run's image, otherwise 128 and 256]",
            metavar="N|HxW",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            "--batch",
            help="Passes per run of an engine; may be repeated.  [default: 1 and 4]",
            metavar="N",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            help="Engine to measure; may be repeated.  [default: all engines that work here]",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="Number of rounds; in each round every case runs once.")] = 7,
    passes: Annotated[int, typer.Option("--passes", help="Minimum number of passes of each case in a round.")] = 4,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="Without MODEL: recipe whose network is measured, with random weights.", metavar="NAME"
        ),
    ] = "paper",
    curve: Annotated[
        int,
        typer.Option(
            "--curve", help="Number of passes of the convergence curve, for a run folder; 0: no curve.", metavar="N"
        ),
    ] = 100,
    curve_of: Annotated[
        Path | None,
        typer.Option(
            "--curve-of",
            help="Run folder for the convergence curve.  [default: MODEL, if it is a run folder]",
            metavar="RUN",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Clean image of the run, for the PSNR in the convergence curve.",
            metavar="CLEAN",
            readable=False,
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            help="For a model with live dropout: arrays as for self2self predict.  [default: random]",
            metavar="FILE",
            show_default=False,
            readable=False,
        ),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure the peak memory of each case in a fresh process.")
    ] = True,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure the speed and memory of each engine.

    Every engine that works on this machine is compared with the plain PyTorch loop: one pass at a time, no export. For
    a model with live dropout (self2self export --model or --onnx), --batch is the number of samples, and each engine is
    compared with the first.
    """
    from self2self.bench.environment import shown_command
    from self2self.bench.table import text
    from self2self.jobs import BenchOptions, bench_job
    from self2self.jobs.live_bench import LiveBenchOptions, is_live_file, live_bench_job, table

    console = Console(as_json=as_json, quiet=quiet)
    if model is not None and is_live_file(model):
        if size or html or against or curve_of or reference:
            raise UsageError(f"{model} has live dropout; leave out --size, --html, --against and options of the curve.")
        live_options = LiveBenchOptions(
            inputs, tuple(batch or (1, 4)), tuple(engine or ()), rounds, passes, output, force=force
        )
        measured = live_bench_job(model, live_options)
        console.result(table(measured), measured)
        return
    if inputs is not None:
        raise UsageError("--inputs is for models with live dropout. Type: self2self bench MODEL.onnx --inputs FILE")
    options = BenchOptions(
        sizes=tuple(map(parse_side, size or ())),
        batches=tuple(batch or (1, 4)),
        engines=tuple(engine or ()),
        rounds=rounds,
        passes=passes,
        recipe=recipe,
        curve_passes=curve,
        curve_run=curve_of,
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
    if result.get("done_already"):
        console.result(f"{output or html}: {DONE_ALREADY}", result)
    else:
        console.result(text(result), result)
