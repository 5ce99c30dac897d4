"""The command `self2self export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from self2self.cli.console import DONE_ALREADY, Console, exits_with_code
from self2self.cli.options import AsJson, Force, Log, Precision, Quiet, parse_batches, parse_shapes, parse_size
from self2self.cli.panels import NETWORK
from self2self.errors import UsageError

if TYPE_CHECKING:
    from self2self.export.verify import Verification
    from self2self.jobs import EngineOptions
    from self2self.live.contract import LiveContract
    from self2self.live.export import LiveExport
    from self2self.train.run_folder import Run


@exits_with_code
def export(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder of the fit.  [default: the latest]", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File for the model (.onnx).  [default: RUN/model.onnx]",
            metavar="FILE",
            show_default=False,
            readable=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            help="Fix the image size to height x width, for example 512x768; with --engine: size for which the engine "
            "is optimized.  [default: any size]",
            metavar="HxW",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="Instead, build a TensorRT engine file from the exported model: trt or trt-rtx.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    minimum: Annotated[
        str | None,
        typer.Option("--min", help="Smallest image size of the engine.", metavar="HxW", show_default=False),
    ] = None,
    maximum: Annotated[
        str | None,
        typer.Option("--max", help="Largest image size of the engine.", metavar="HxW", show_default=False),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            "--batch",
            help="Smallest, optimal and largest batch of the engine, in passes per run.  [default: 1,16,64]",
            metavar="N,N,N",
            show_default=False,
        ),
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            "--capability",
            help="Compute capability of the GPUs that a trt-rtx engine is for, such as 8.6; may be repeated.",
            metavar="N.N",
            show_default=False,
        ),
    ] = None,
    precision: Precision = "fp32",
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            help="Export a network without masks: one graph from image to denoised image, for any program.",
        ),
    ] = False,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format of the plain export: onnx, dtmodel for darktable, or bioimageio.  [default: onnx]",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Clean image, to compare the PSNR of fp16 or bf16 with that of fp32.",
            metavar="CLEAN",
            show_default=False,
            readable=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Instead of a fit, export any PyTorch model with live dropout: FACTORY() returns the model and its "
            "example inputs. This imports MODULE, from the current folder or the installed packages, and runs its "
            "code.",
            metavar="MODULE:FACTORY",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx",
            help="Instead, export an ONNX file of another program with live dropout: nodes that draw become inputs.",
            metavar="FILE",
            show_default=False,
            readable=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            help="With --onnx: example shape of an input, such as x=1,3,224,224, where the file leaves it open; may be "
            "repeated.",
            metavar="NAME=N,N,...",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    fixed: Annotated[
        bool,
        typer.Option(
            "--fixed", help="With --onnx: all axes but the batch keep their example length.", rich_help_panel=NETWORK
        ),
    ] = False,
    all_dropout: Annotated[
        bool,
        typer.Option(
            "--all-dropout",
            help="With --onnx: Dropout nodes that are switched off drop, too.",
            rich_help_panel=NETWORK,
        ),
    ] = False,
    sites: Annotated[
        bool,
        typer.Option(
            "--sites",
            help="With --model or --onnx: list what draws random numbers, and write nothing.",
            rich_help_panel=NETWORK,
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="With --model or --onnx: modules or nodes whose dropout stays, such as 'head.*'; may be repeated.  "
            "[default: all]",
            metavar="PATTERN",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            help="With --model or --onnx: modules or nodes whose dropout does not stay; may be repeated.",
            metavar="PATTERN",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="With --model or --onnx: what the outputs are: logits, probabilities, image or value.  [default: "
            "FACTORY's, or value]",
            metavar="NAME",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    log: Log = None,
) -> None:
    """Export a fit to one ONNX file.

    The dropout masks are inputs of the model. The exported file is verified against PyTorch. With --plain, the network
    is calibrated to do without masks, and any program can run the file. With --engine, a TensorRT engine is built from
    the exported file. With --model or --onnx, the network is not a fit but your own.
    """
    from self2self.jobs import EngineOptions, LiveChoice, live_export_job, live_onnx_job
    from self2self.runtime.engines.profiles import BATCHES
    from self2self.train.run_folder import Run

    console = Console(as_json=as_json, quiet=quiet)
    if (shape or fixed or all_dropout) and onnx is None:
        raise UsageError("--shape, --fixed and --all-dropout are options of --onnx FILE.")
    if model is not None or onnx is not None:
        if model is not None and onnx is not None:
            raise UsageError("--model and --onnx are two ways to give a network; leave out one.")
        if run or size or engine or minimum or maximum or batches or capability or plain or file_format or reference:
            raise UsageError(
                "--model and --onnx export a network of your own; leave out the run folder and the options of fits."
            )
        if precision != "fp32":
            raise UsageError("--model and --onnx export the network in its own precision; leave out --precision.")
        choice = LiveChoice(tuple(only or ()), tuple(exclude or ()), kind, list_only=sites)
        if onnx is not None:
            shapes = parse_shapes(shape or [])
            done, was_there = live_onnx_job(
                onnx, output, choice, shapes=shapes, fixed=fixed, all_dropout=all_dropout, force=force
            )
        else:
            done, was_there = live_export_job(str(model), output, choice, force=force)
        _show_live(console, done, "PyTorch" if onnx is None else "the file", was_there=was_there)
        return
    if sites or only or exclude or kind:
        raise UsageError("--sites, --only, --exclude and --kind are options of --model MODULE:FACTORY or --onnx FILE.")
    if engine is not None and output is not None:
        raise UsageError("-o works only without --engine; engines are kept in RUN/engines.")
    if engine is None and (minimum or maximum or batches or capability):
        raise UsageError(
            "--min, --max, --batch and --capability are options of engines; add --engine trt or --engine trt-rtx."
        )
    if reference is not None and (precision == "fp32" or engine is not None):
        raise UsageError("--reference compares a half precision with fp32; add --precision fp16, without --engine.")
    if plain and (engine is not None or reference is not None):
        raise UsageError("--plain exports one ONNX file of its own; leave out --engine and --reference.")
    if file_format is not None and not plain:
        raise UsageError("--format is a format of plain models; add --plain.")
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
        _build_engine(console, folder, options, force=force)
    elif plain:
        _export_plain(
            console,
            folder,
            output,
            size=parse_size(size),
            precision=precision,
            file_format=file_format or "onnx",
            force=force,
        )
    else:
        _export_model(
            console, folder, output, size=parse_size(size), precision=precision, reference=reference, force=force
        )


def _build_engine(console: Console, folder: Run, options: EngineOptions, *, force: bool) -> None:
    """Build an engine from the exported model, or find an earlier one, and print where it is."""
    from self2self.jobs import engine_job

    with console.progress() as observer:
        built = engine_job(folder, options, force=force, observer=observer)
    info = built.info
    done = f"built in {info.build_seconds:.1f} s" if built.built else "there already"
    console.result(
        f"{built.path}: {done}, {info.engine_bytes / 1e6:.1f} MB",
        {"run": str(folder.folder), "output": str(built.path), "built": built.built, **info.to_json()},
    )


def _export_plain(
    console: Console,
    folder: Run,
    output: Path | None,
    *,
    size: tuple[int, int] | None,
    precision: str,
    file_format: str,
    force: bool,
) -> None:
    """Export the plain model of a run, and print how far it is from PyTorch."""
    from self2self.jobs import plain_job

    with console.progress() as observer:
        path, check = plain_job(
            folder,
            output,
            size=size,
            precision=precision,
            file_format=file_format,
            force=force,
            observer=observer,
        )
    console.result(
        f"{path}: verified against PyTorch, {_difference_text(check)}",
        {
            "run": str(folder.folder),
            "output": str(path),
            "precision": precision,
            "plain": True,
            **_check_json(path, check),
        },
    )


def _difference_text(check: Verification) -> str:
    return f"largest difference {check.max_difference:.1e}, RMS {check.rms_difference:.1e}"


def _check_json(path: Path, check: Verification) -> dict[str, Any]:
    return {
        "max_difference": check.max_difference,
        "rms_difference": check.rms_difference,
        "bytes": path.stat().st_size,
        "seconds": {"verify": check.seconds},
    }


def _export_model(
    console: Console,
    folder: Run,
    output: Path | None,
    *,
    size: tuple[int, int] | None,
    precision: str,
    reference: Path | None,
    force: bool,
) -> None:
    """Export the model in `precision`, and print how far it is from PyTorch and, in half precision, from fp32."""
    from self2self.jobs import export_job, precision_job

    text, extra = "", {}
    if precision == "fp32":
        path, check = export_job(folder, output, size=size, force=force)
    else:
        from dataclasses import asdict

        path, check, compared = precision_job(folder, precision, output, size=size, reference=reference, force=force)
        text = f"; {compared.in_words()}"
        extra = {"compared": asdict(compared)}
    console.result(
        f"{path}: verified against PyTorch, {_difference_text(check)}{text}",
        {"run": str(folder.folder), "output": str(path), "precision": precision, **extra, **_check_json(path, check)},
    )


def _show_live(console: Console, done: LiveExport, original: str, *, was_there: bool) -> None:
    """Print what was exported, or list what draws."""
    from dataclasses import asdict

    contract = done.contract
    values: dict[str, Any] = {"output": None if done.path is None else str(done.path), **asdict(contract)}
    if done.path is None:
        console.result(_table(contract), values)
        return
    if was_there:
        console.result(f"{done.path}: {DONE_ALREADY}", {**values, "done_already": True})
        return
    neutral = "" if done.neutral_difference is None else f", neutral masks {done.neutral_difference:.1e}"
    checked = (
        f"not compared with {original}, whose random operators do not run here"
        if done.onnx_difference is None
        else f"verified against {original}, largest difference {done.onnx_difference:.1e}"
    )
    console.result(
        f"{done.path}: {len(contract.masks)} draws; {checked}{neutral}",
        {**values, "max_difference": done.onnx_difference, "neutral_difference": done.neutral_difference},
    )


def _table(contract: LiveContract) -> str:
    """What draws, as aligned columns."""
    from self2self.live.contract import KEEP_LEVELS

    lines = [("module", "operator", "draw", "shape")]
    for mask in contract.masks:
        draw = mask.draw if mask.keep_count is None else f"true {mask.keep_count / KEEP_LEVELS:.4f}"
        lines.append((mask.site or "(the model)", mask.operator, draw, ", ".join(map(str, mask.dims))))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
