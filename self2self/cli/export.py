"""`self2self export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from self2self.cli.console import Console, reported
from self2self.cli.options import AsJson, Force, Precision, Quiet, parse_batches, parse_size
from self2self.errors import UsageError


@reported
def export(
    run: Annotated[Path | None, typer.Argument(help="Run folder.  [default: the latest]", show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The .onnx file.  [default: RUN/model.onnx]",
            metavar="FILE",
            show_default=False,
            readable=False,
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
            readable=False,
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
    from self2self.runtime.engines.profiles import BATCHES
    from self2self.train.run_folder import Run

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
        text = f"; {compared.in_words()}"
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
