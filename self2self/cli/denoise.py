"""`self2self denoise`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from self2self.cli.ensemble import infer_options, print_finished
from self2self.console import Console, reported
from self2self.errors import Self2SelfError, UsageError
from self2self.options import (
    AllowFallback,
    AsJson,
    Batch,
    Device,
    DropRate,
    EngineName,
    FitPages,
    Flips,
    Force,
    ImageOutput,
    Init,
    Iqa,
    IqaWeightsFile,
    Masks,
    MaskSource,
    Memory,
    Page,
    Passes,
    Quiet,
    RecipeName,
    Report,
    Seed,
    Steps,
    Tolerance,
    Uncertainty,
)

if TYPE_CHECKING:
    from self2self.jobs import Finished, FinishedStack


@reported
def denoise(
    images: Annotated[list[Path], typer.Argument(help="Noisy images.", metavar="IMAGE...")],
    output: ImageOutput = None,
    recipe: RecipeName = "fast",
    init: Init = None,
    steps: Steps = None,
    drop_rate: DropRate = None,
    iqa: Iqa = None,
    iqa_weights: IqaWeightsFile = None,
    page: Page = None,
    fit_pages: FitPages = "first",
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
    from self2self.jobs import FitOptions, denoise_job

    console = Console(as_json=as_json, quiet=quiet)
    if run is not None and len(images) > 1:
        raise UsageError("--run works with one image at a time.")
    fitting = FitOptions(recipe, init, steps, drop_rate, seed, device, run, iqa, iqa_weights, page, fit_pages)
    options = infer_options(
        engine=engine,
        passes=passes,
        batch=batch,
        seed=seed,
        output=output,
        uncertainty=uncertainty,
        force=force,
        tolerance=tolerance,
        masks=masks,
        flips=flips,
        memory=memory,
        mask_source=mask_source,
        allow_fallback=allow_fallback,
        report=report,
    )
    options.check(images)
    finished: list[Finished | FinishedStack] = []
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
            print_finished(console, finished[-1:])
    if as_json:
        print_finished(console, finished, many=len(images) > 1)
    if failed is not None:
        raise typer.Exit(failed.exit_code)
