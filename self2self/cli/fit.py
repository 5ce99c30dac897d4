"""The command `self2self fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from self2self.cli.console import Console, exits_with_code, range_text
from self2self.cli.groups import RecipeGroup, with_groups
from self2self.cli.options import AsJson, Device, Force, Page, Quiet, Seed, Wait
from self2self.errors import UsageError


@exits_with_code
@with_groups
def fit(
    image: Annotated[Path, typer.Argument(help="Noisy image.", readable=False)],
    *,
    run: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder for the fit.  [default: runs/IMAGE-HASH]", metavar="RUN", show_default=False
        ),
    ] = None,
    fitting: RecipeGroup,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted fit, and never begin one.")] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Clean image, for PSNR and SSIM in the history only; the fit never uses it.",
            metavar="CLEAN",
            readable=False,
        ),
    ] = None,
    page: Page = None,
    seed: Seed = 0,
    device: Device = "auto",
    wait: Wait = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit the network to one noisy image.

    The fit is written to a run folder. To use it: self2self export, then self2self infer.
    """
    from self2self.jobs import fit_job

    if resume and force:
        raise UsageError("--resume continues a fit and --force starts it anew; give one of them.")
    console = Console(as_json=as_json, quiet=quiet)
    options = fitting.options(seed=seed, device=device, run=run, page=page, wait=wait)
    with console.progress() as observer:
        fitted = fit_job(image, options, resume=resume, force=force, reference=reference, observer=observer)
    text = f"{fitted.run.folder}: fitted in {fitted.steps} steps and {fitted.seconds:.1f} s"
    if fitted.loss is not None:
        text += f", loss {fitted.loss:.4g}"
    if fitted.psnr is not None:
        text += f", PSNR {fitted.psnr:.2f} dB (4 passes)"
    if fitted.noise is not None:
        text += f"\n  {fitted.noise.text}: {fitted.settings()}{range_text(fitted.config.image_range)}"
    if fitted.reused:
        text = f"{fitted.run.folder}: done already, in {fitted.steps} steps. To fit anew: --force"
    console.result(f"{text}\n  {fitted.quality_text()}", fitted.to_json())
