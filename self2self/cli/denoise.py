"""The command `self2self denoise`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from self2self.cli.console import Console, exits_with_code
from self2self.cli.ensemble import batch_of, end_images, print_finished
from self2self.cli.groups import ClusterGroup, EnsembleGroup, ManyGroup, RecipeGroup, VolumeGroup, with_groups
from self2self.cli.options import (
    AsJson,
    Device,
    FitPages,
    Force,
    ImageOutput,
    Like,
    Log,
    Page,
    Quiet,
    Seed,
    Verbose,
    Wait,
)
from self2self.cli.panels import FIT
from self2self.cli.streams import standard_streams
from self2self.errors import UsageError

if TYPE_CHECKING:
    from self2self.jobs import EnsembleOptions, FitOptions, ImageBatch, OutputOptions, Result


@exits_with_code
@with_groups
def denoise(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Noisy images, or folders with images; - is stdin.", metavar="IMAGE", readable=False, allow_dash=True
        ),
    ],
    *,
    output: ImageOutput = None,
    fitting: RecipeGroup,
    page: Page = None,
    fit_pages: FitPages = "first",
    like: Like = None,
    volume: VolumeGroup,
    many: ManyGroup,
    cluster: ClusterGroup,
    ensemble: EnsembleGroup,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Folder for the fit.  [default: in the cache folder]", show_default=False, rich_help_panel=FIT
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    wait: Wait = False,
    force: Force = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    log: Log = None,
) -> None:
    """Denoise images: fit, export and infer in one command.

    The result is written next to each image as IMAGE.denoised.EXT, with the same file type, bit depth and size. The
    fit is kept in a cache folder (about 8 MB; self2self runs lists and removes them). After an interruption, the same
    command continues the fit where it stopped.

    \b
    self2self denoise photo.jpg
    self2self denoise photo.jpg -o clean.png --uncertainty std.tif
    self2self denoise *.jpg -o results
    self2self denoise scans/ -o results
    self2self denoise shoot/ --recursive --like shoot/night.jpg -o results
    self2self denoise stack.tif --fit-pages each
    self2self denoise embryo.ome.zarr
    """  # noqa: D301 - \b keeps the line breaks of the examples
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    fit_options = replace(
        fitting.options(seed=seed, device=device, run=run, page=page, wait=wait, fit_pages=fit_pages),
        axes=volume.axes,
        channel_axis=volume.channel_axis,
    )
    options = ensemble.options(seed=seed)
    fit_options.check()
    options.check_values()
    with standard_streams(images, output, console) as streams:
        outputs = ensemble.outputs(output=streams.output, force=force, wait=wait)
        _denoise_all(console, streams.paths, fit_options, options, outputs, many, cluster, like)


def _denoise_all(
    console: Console,
    paths: list[Path],
    fit_options: FitOptions,
    options: EnsembleOptions,
    given: OutputOptions,
    many: ManyGroup,
    cluster: ClusterGroup,
    like: Path | None,
) -> None:
    """Denoise each of the files and the images in the folders `paths`, and print the results."""
    from self2self.jobs import goes_by_blocks, series_job

    by_blocks = partial(goes_by_blocks, fitting=fit_options, outputs=given)
    several, outputs = batch_of(console, paths, given, many, by_blocks)
    if cluster.no_shared_disk and cluster.scheduler is None:
        raise UsageError("--no-shared-disk is about workers. Give their scheduler, too: --scheduler ADDRESS")
    if cluster.scheduler is not None and many.part is not None:
        raise UsageError("--part does not go with --scheduler, which shares the work itself. Leave one of them out.")
    if fit_options.run is not None and several.several and like is None:
        raise UsageError("--run works with one image at a time, or with --like FILE.")
    if cluster.scheduler is not None:
        finished = _denoise_on_workers(console, several, fit_options, options, outputs, cluster, like)
    elif like is not None:
        with console.progress() as observer:
            finished = series_job(like, several.images, fit_options, options, outputs, observer, batch=several)
        print_finished(console, finished)
    else:
        finished = _denoise_each(console, several, fit_options, options, outputs)
    end_images(console, several, finished, given.report)


def _denoise_each(
    console: Console,
    several: ImageBatch,
    fit_options: FitOptions,
    options: EnsembleOptions,
    outputs: OutputOptions,
) -> list[Result]:
    """Denoise every image with a fit of its own; returns the results that `--json` prints."""
    from self2self.jobs import denoise_job

    if several.several:
        # An engine that does not work is one error, not one for each image.
        options.check()
    finished: list[Result] = []
    for path in several.images:
        with several.attempt(path):
            with console.progress() as observer:
                if several.skips(path, observer):
                    continue
                several.begin(path, observer)
                result = denoise_job(path, fit_options, options, outputs, observer, part=several.part_of_volume)
                several.finished(path, result)
            print_finished(console, [result])
            if console.as_json:
                finished.append(result.without_pixels())
    return finished


def _denoise_on_workers(
    console: Console,
    several: ImageBatch,
    fit_options: FitOptions,
    options: EnsembleOptions,
    outputs: OutputOptions,
    cluster: ClusterGroup,
    like: Path | None,
) -> list[Result]:
    """Denoise every image on a worker of a scheduler; returns the results that `--json` prints."""
    from self2self.distributed import connected, denoise_many
    from self2self.errors import Self2SelfError

    finished: list[Result] = []
    assert cluster.scheduler is not None  # noqa: S101 - the caller has checked it
    with connected(cluster.scheduler) as client, console.progress() as observer:
        waiting = [path for path in several.images if not several.skips(path, observer)]
        answers = denoise_many(
            waiting,
            client,
            fitting=fit_options,
            options=options,
            outputs=outputs,
            shared_disk=not cluster.no_shared_disk,
            like=like if waiting else None,
            observer=observer,
        )
        for path, answer in answers:
            with several.attempt(path):
                if isinstance(answer, Self2SelfError):
                    raise answer
                several.finished(path, answer)
                print_finished(console, [answer])
                finished.append(answer)
    return finished
