"""What `denoise` and `infer` share: the images that they take, and the results that they print."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from self2self.cli.console import DONE_ALREADY, Console, standard_error_text
from self2self.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from self2self.cli.groups import ManyGroup
    from self2self.jobs import DenoiseResult, ImageBatch, OutputOptions, Result, StackResult
    from self2self.runtime.ensemble.tile_loop import EnsembleResult


def batch_of(
    console: Console,
    named: list[Path],
    outputs: OutputOptions,
    many: ManyGroup,
    goes_by_blocks: Callable[[Path], bool] = lambda path: False,
) -> tuple[ImageBatch, OutputOptions]:
    """The images that `named` and `many` mean, and where the result of each goes.

    Args:
        console: prints notes.
        named: files and folders.
        outputs: where results go.
        many: options about several images.
        goes_by_blocks: whether a file that is a single one is shared out by its blocks.

    Raises:
        UsageError: several images would go to stdout or to one file; or options do not fit together.
        OutputError: the manifest or the report cannot be written.
        InputError: a folder has no images.
    """
    from self2self.jobs import ImageBatch, Manifest, Observer, Part, named_images

    images = named_images(named, Observer(note=console.note), recursive=many.recursive)
    # The parts of one volume are blocks, those of several images are images.
    part = None if many.part is None else Part.parse(many.part)
    of_volume = part if part is not None and len(images) == 1 and goes_by_blocks(images[0]) else None
    of_images = None if of_volume is not None else part
    several = images != named or len(images) > 1 or of_images is not None
    if console.stdout_is_taken and len(images) > 1:
        raise UsageError(f"-o -: stdout takes one image, and {len(images)} are given. Give a folder: -o results")
    if several:
        if outputs.report is not None:
            from self2self.report import check_batch_report
            from self2self.report.html import check_available

            check_available(f"--report {outputs.report}")
            check_batch_report(outputs.report, force=outputs.force)
        outputs = outputs.for_several(tuple(path for path in named if path.is_dir()) if many.recursive else ())
    outputs.check(images)
    manifest = None if many.manifest is None else Manifest(many.manifest)
    images = images if of_images is None else of_images.of(images)
    batch = ImageBatch(images, outputs, console.error, manifest, several=several, part_of_volume=of_volume)
    return batch, outputs


def print_finished(console: Console, finished: list[Result]) -> None:
    """Print one line for each result, and what there is to say about how it was made."""
    from self2self.jobs import EarlierResult, StackResult, VolumeResult

    for item in finished:
        what = "-: sent to stdout" if console.stdout_is_taken else f"{item.output}: written"
        if isinstance(item, EarlierResult):
            console.line(f"{item.output}: {DONE_ALREADY}")
        elif isinstance(item, VolumeResult):
            console.line(f"{what if item.is_whole else f'{item.output}: not complete yet'}; {item.summary}")
            console.detail(f"  {item.way}")
        elif isinstance(item, StackResult):
            console.line(f"{what}; {item.summary}")
            console.detail(f"  {_way_of_stack(item)}")
        else:
            console.line(f"{what}; {item.summary}")
            for line in _details(item):
                console.detail(f"  {line}")


def _details(item: DenoiseResult) -> list[str]:
    """How an image was made, and the exact figures."""
    residual = item.residual
    removed = f"removed: mean {residual.mean:+.2f}, standard deviation {residual.standard_deviation:.1f} grey levels"
    if item.noise is None:
        # `infer` measures only the residual, which can hold less than the image's noise.
        noise = f"{removed}, with {residual.noise.text}"
    else:
        made = "" if item.fit is None else f": {item.fit.settings()}"
        noise = f"{item.noise.text}{made}; {removed}"
    with_term = item.fit is not None and item.fit.config.iqa is not None
    return [_way_text(item.ensemble), noise] + ([f"fitted {item.fit.quality_text()}"] if item.fit and with_term else [])


def end_images(console: Console, several: ImageBatch, finished: list[Result], report: Path | None = None) -> None:
    """Write the report of several images; print the JSON document, or a summary if some images were not written.

    Args:
        console: prints.
        several: the images.
        finished: their results.
        report: file of the page about several images; None for no page.

    The document holds the result of the only image, or those of all images and the skipped and failed ones.

    Raises:
        typer.Exit: an image failed.
    """
    if report is not None and several.several:
        from self2self.jobs import write_report_of_batch

        write_report_of_batch(report, several)
        console.line(f"{report}: written, a page about {len(several.images)} images")
    if console.as_json:
        values = [item.to_json() for item in finished]
        console.result("", several.to_json(values) if several.several else values[0])
    elif summary := several.summary():
        console.note(summary)
    if several.exit_code:
        raise typer.Exit(several.exit_code)


def _way_text(done: EnsembleResult) -> str:
    """How the image was made."""
    if not done.passes:
        return "copied, as it holds nothing to denoise"
    if done.plain:
        views = f"{done.passes} mirrored views" if done.passes > 1 else "one view"
        return f"a single pass without dropout, over {views}, with {done.provider}"
    return (
        f"{done.passes} passes with {done.provider}, {done.passes_per_second:.1f} a second, "
        f"standard error {standard_error_text(done.standard_error)}"
    )


def _way_of_stack(item: StackResult) -> str:
    """How the pages were made."""
    plain = sum(page.plain for page in item.pages)
    ways = [f"a single pass without dropout over {plain} of them"] if plain else []
    if copied := sum(not page.passes for page in item.pages):
        ways.append(f"{copied} of them copied")
    if plain + copied < len(item.pages):
        error = math.nan if item.standard_error is None else item.standard_error
        passes = sum(page.passes for page in item.pages if not page.plain)
        ways.append(f"{passes} passes, standard error {standard_error_text(error)}")
    return f"{' and '.join(ways)}, with {item.last_denoised.provider}"
