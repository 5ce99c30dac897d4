"""`self2self bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from self2self.cli.console import Console, reported
from self2self.cli.options import AsJson, Force, Quiet, parse_side


@reported
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
            "-o", "--output", help="Write the JSON to FILE.", metavar="FILE", show_default=False, readable=False
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Write one page with charts to FILE.", metavar="FILE", show_default=False, readable=False
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="Compare with the JSON of an earlier run, and name what became slower beyond noise.",
            metavar="FILE",
            show_default=False,
            readable=False,
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
    curve_of: Annotated[
        Path | None,
        typer.Option(
            "--curve-of",
            help="Run folder of the convergence curve.  [default: MODEL, if it is one]",
            metavar="RUN",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Clean image of the run, for PSNR against passes.",
            metavar="CLEAN",
            readable=False,
        ),
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
    console.result(text(result), result)
