"""The command `self2self infer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from self2self.cli.console import Console, exits_with_code
from self2self.cli.ensemble import batch_of, end_images, print_finished
from self2self.cli.groups import EnsembleGroup, ManyGroup, with_groups
from self2self.cli.options import (
    AsJson,
    Force,
    ImageOutput,
    Log,
    NodataText,
    Quiet,
    Seed,
    Verbose,
    Wait,
    parse_nodata,
)
from self2self.cli.streams import standard_streams
from self2self.errors import InputError, UsageError

if TYPE_CHECKING:
    from self2self.jobs import EnsembleOptions, OutputOptions
    from self2self.model.contract import Nodata


@exits_with_code
@with_groups
def infer(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Model (.onnx file or run folder), and noisy images or folders with images; - is stdin.  "
            "[default: the latest run and its image]",
            metavar="[MODEL] [IMAGE...]",
            allow_dash=True,
            show_default=False,
            readable=False,
        ),
    ] = None,
    *,
    output: ImageOutput = None,
    many: ManyGroup,
    ensemble: EnsembleGroup,
    seed: Seed = 0,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="Model of the run to use: fp32, fp16 or bf16.  [default: fp32]",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    nodata: NodataText = None,
    wait: Wait = False,
    force: Force = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    log: Log = None,
) -> None:
    """Denoise images with an exported model.

    The model was fitted by self2self fit and written by self2self export. The result is the mean of many predictions
    (passes) with random dropout.
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    options = ensemble.options(seed=seed)
    # Options are checked before files, so that a wrong engine gives the same error with and without a model.
    options.check()
    missing_value = parse_nodata(nodata)
    with standard_streams(paths or [], output, console) as streams:
        outputs = ensemble.outputs(output=streams.output, force=force, wait=wait)
        model, named = _model_and_images(streams.paths, precision)
        _infer_all(console, model, named, options, outputs, missing_value, many)


def _infer_all(
    console: Console,
    model: Path,
    named: list[Path],
    options: EnsembleOptions,
    given: OutputOptions,
    nodata: Nodata,
    many: ManyGroup,
) -> None:
    """Run the model over each of the files and the images in the folders `named`, and print the results."""
    from self2self.jobs import infer_job

    several, outputs = batch_of(console, named, given, many)
    with console.progress() as observer:
        finished = infer_job(model, several.images, options, outputs, observer, batch=several, nodata=nodata)
    print_finished(console, finished)
    end_images(console, several, finished, given.report)


def _model_and_images(paths: list[Path], precision: str | None) -> tuple[Path, list[Path]]:
    """Split the arguments into the model file and the images; a model is a run folder or a file named *.onnx.

    Raises:
        UsageError: an option does not fit, or the image is missing from the command line.
        InputError: the model or the image does not exist.
    """
    from self2self.image_io.write import EXTENSIONS
    from self2self.jobs import exported_path
    from self2self.train.run_folder import Run

    if later := next((path for path in paths[1:] if path.suffix == ".onnx" or Run(path).config_path.is_file()), None):
        raise UsageError(f"{later}: is a model, and the model comes first. Type: self2self infer {later} IMAGE")
    if paths and paths[0].suffix == ".onnx":
        if precision is not None:
            raise UsageError(f"--precision chooses a model of a run; {paths[0]} is a model already.")
        if len(paths) == 1:
            raise UsageError(f"which image? Type: self2self infer {paths[0]} IMAGE")
        return paths[0], paths[1:]
    if paths and not paths[0].exists() and paths[0].suffix.lower() not in EXTENSIONS:
        # As an image, this path would make the latest run the model of all other images.
        raise InputError(
            f"{paths[0]}: no such model, and no such image. Make a model with: self2self fit IMAGE, then: "
            "self2self export"
        )
    begins_with_run = bool(paths) and paths[0].is_dir() and not _is_folder_of_images(paths[0])
    run, images = (Run(paths[0]), paths[1:]) if begins_with_run else (Run.latest(), paths)
    image = Path(run.config().image)
    model = exported_path(run, precision or "fp32")
    if not images and not image.is_file():
        raise InputError(
            f"{image}: does not exist any more, and {run.folder} was fitted to it. "
            f"Name the image: self2self infer {run.folder} IMAGE"
        )
    return model, images or [image]


def _is_folder_of_images(folder: Path) -> bool:
    """Whether a folder has images and is no run folder, which has a preview."""
    from self2self.jobs import has_images
    from self2self.train.run_folder import Run

    return not Run(folder).config_path.is_file() and has_images(folder)
