"""The command `self2self predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from self2self.cli.console import DONE_ALREADY, Console, exits_with_code
from self2self.cli.options import AsJson, Force, Log, Quiet, Seed, parse_passes
from self2self.errors import UsageError


@exits_with_code
def predict(
    model: Annotated[Path, typer.Argument(help="File of self2self export --model.", metavar="MODEL", readable=False)],
    inputs: Annotated[
        Path,
        typer.Argument(
            help="Arrays: .npz with one for each input of the model, or .npy.", metavar="INPUTS", readable=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the results (.npz).", metavar="FILE", readable=False)
    ],
    stat: Annotated[
        str,
        typer.Option(
            "--stat",
            help="What to write: mean, std, and of classes entropy, mi (mutual information, BALD) and vr (variation "
            "ratio); quantiles.",
            metavar="NAME,...",
        ),
    ] = "mean,std",
    passes: Annotated[
        str,
        typer.Option(
            "--passes",
            help="Number of passes; auto makes 30 to 1000, and stops when the standard error of the mean reaches "
            "--tolerance.",
            metavar="auto|N",
        ),
    ] = "auto",
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            help="Standard error at which --passes auto stops: of probabilities, or relative to the mean of other "
            "values.  [default: 0.005]",
            show_default=False,
        ),
    ] = None,
    masks: Annotated[
        str,
        typer.Option(
            "--masks",
            help="independent: every sample has masks of its own; shared: in each pass all samples have the same.",
            metavar="independent|shared",
        ),
    ] = "independent",
    quantiles: Annotated[
        str | None,
        typer.Option("--quantiles", help="Which quantiles, such as 0.05,0.95.", metavar="Q,...", show_default=False),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch", help="Number of samples that run together.  [default: all]", metavar="N", show_default=False
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="What computes: ort or auto (ONNX Runtime on the CPU), openvino, mnn, ort-cuda or ort-trt.",
            metavar="NAME",
        ),
    ] = "ort",
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    log: Log = None,
) -> None:
    """Run a model with live dropout many times, and write what the passes tell.

    The model was written by self2self export --model or self2self.export_live. PyTorch is not needed.
    """
    from self2self.jobs import live_predict_job

    console = Console(as_json=as_json, quiet=quiet)
    count = parse_passes(passes)
    done = live_predict_job(
        model,
        inputs,
        output,
        statistics=[name.strip() for name in stat.split(",")],
        passes="auto" if count is None else count,
        seed=seed,
        masks=masks,
        quantiles=_numbers(quantiles),
        batch=batch,
        tolerance=tolerance,
        engine=engine,
        force=force,
    )
    for note in done.notes:
        console.note(note)
    told = ", ".join(f"{name} {list(shape)}" for name, shape in done.arrays.items())
    values = {"output": str(done.path), "passes": done.passes, "arrays": {n: list(s) for n, s in done.arrays.items()}}
    if done.done_already:
        console.result(f"{done.path}: {DONE_ALREADY}", {**values, "done_already": True})
    else:
        console.result(f"{done.path}: {done.passes} passes; {told}", values)


def _numbers(text: str | None) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"--quantiles is {text!r}; expected numbers from 0 to 1, such as 0.05,0.95.") from None
