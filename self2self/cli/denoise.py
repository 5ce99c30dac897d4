"""`self2self denoise`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from self2self.cli.ensemble import print_finished
from self2self.cli.groups import EnsembleGroup, RecipeGroup, with_groups
from self2self.console import Console, reported
from self2self.errors import Self2SelfError, UsageError
from self2self.options import AsJson, Device, FitPages, Force, ImageOutput, Page, Quiet, Seed

if TYPE_CHECKING:
    from self2self.jobs import Finished, FinishedStack


@reported
@with_groups
def denoise(
    images: Annotated[list[Path], typer.Argument(help="Noisy images.", metavar="IMAGE...")],
    *,
    output: ImageOutput = None,
    fitting: RecipeGroup,
    page: Page = None,
    fit_pages: FitPages = "first",
    ensemble: EnsembleGroup,
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
    from self2self.jobs import denoise_job

    console = Console(as_json=as_json, quiet=quiet)
    if run is not None and len(images) > 1:
        raise UsageError("--run works with one image at a time.")
    fit_options = fitting.options(seed=seed, device=device, run=run, page=page, fit_pages=fit_pages)
    options = ensemble.options(output=output, seed=seed, force=force)
    options.check(images)
    finished: list[Finished | FinishedStack] = []
    failed: Self2SelfError | None = None
    for path in images:
        try:
            with console.progress(path.name if len(images) > 1 else "") as observer:
                if len(images) > 1 and options.skips(path, observer):
                    continue
                finished.append(denoise_job(path, fit_options, options, observer))
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
