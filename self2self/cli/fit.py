"""The command `self2self fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from self2self.cli.console import Console, exits_with_code
from self2self.cli.groups import RecipeGroup, with_groups
from self2self.cli.options import AsJson, Device, Force, Log, Page, Quiet, Seed, Verbose, Wait
from self2self.errors import UsageError

if TYPE_CHECKING:
    from self2self.jobs import FitResult


@exits_with_code
@with_groups
def fit(
    image: Annotated[Path, typer.Argument(help="Noisy image.", readable=False)],
    *,
    run: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            "--run",
            help="Folder for the fit.  [default: in the cache folder; self2self runs list]",
            metavar="RUN",
            show_default=False,
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
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    log: Log = None,
) -> None:
    """Fit the network to one noisy image.

    The fit is written to a run folder. To use it: self2self export, then self2self infer.
    """
    from self2self.jobs import fit_job

    if resume and force:
        raise UsageError("--resume continues a fit and --force starts it anew; give one of them.")
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    options = fitting.options(seed=seed, device=device, run=run, page=page, wait=wait)
    with console.progress() as observer:
        fitted = fit_job(image, options, resume=resume, force=force, reference=reference, observer=observer)
    console.result(_text(fitted), fitted.to_json())
    for line in _details(fitted):
        console.detail(f"  {line}")


def _text(fitted: FitResult) -> str:
    if fitted.reused:
        return f"{fitted.run.folder}: done already, in {fitted.steps} steps. To fit anew: --force"
    text = f"{fitted.run.folder}: fitted in {fitted.steps} steps and {fitted.seconds:.1f} s"
    if fitted.noise is not None:
        text += f"; {fitted.noise.text}"
    if fitted.psnr is not None:
        text += f"; PSNR {fitted.psnr:.2f} dB (4 passes)"
    return text


def _details(fitted: FitResult) -> list[str]:
    """The settings of a fit, and its loss."""
    from self2self.jobs.results import range_text

    loss = "" if fitted.loss is None else f", loss {fitted.loss:.4g}"
    return [f"{fitted.settings()}{loss}{range_text(fitted.config.image_range)}", fitted.quality_text()]
