"""`self2self infer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from self2self.cli.console import Console, reported
from self2self.cli.ensemble import end_images, print_finished
from self2self.cli.groups import EnsembleGroup, with_groups
from self2self.cli.options import AsJson, Force, ImageOutput, Quiet, Seed
from self2self.errors import InputError, UsageError


@reported
@with_groups
def infer(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A model (.onnx file or run folder) and images.  [default: the latest run, and its image]",
            metavar="[MODEL] [IMAGE...]",
            show_default=False,
            readable=False,
        ),
    ] = None,
    *,
    output: ImageOutput = None,
    ensemble: EnsembleGroup,
    seed: Seed = 0,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="Which model of the run: fp32, fp16 or bf16.", metavar="NAME", show_default=False
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the ensemble of an exported model over images."""
    from self2self.jobs import ImageBatch, infer_job

    console = Console(as_json=as_json, quiet=quiet)
    options, outputs = ensemble.options(seed=seed), ensemble.outputs(output=output, force=force)
    # Before any file: a wrong engine is the same mistake whether or not there is a model.
    options.check()
    model, images = _model_and_images(paths or [], precision)
    several = ImageBatch(images, outputs, console.error)
    with console.progress() as observer:
        finished = infer_job(model, images, options, outputs, observer, batch=several)
    if not as_json:
        print_finished(console, finished)
    end_images(console, several, finished)


def _model_and_images(paths: list[Path], precision: str | None) -> tuple[Path, list[Path]]:
    """Tell the model from the images; a model is a run folder or ends in .onnx.

    Raises:
        UsageError, InputError: it cannot be told, or is not there.
    """
    from self2self.image_io.write import EXTENSIONS
    from self2self.jobs import exported_path
    from self2self.train.run_folder import Run

    if paths and paths[0].suffix == ".onnx":
        if precision is not None:
            raise UsageError(f"--precision chooses a model of a run; {paths[0]} is one already.")
        if len(paths) == 1:
            raise UsageError(f"which image? Type: self2self infer {paths[0]} IMAGE")
        return paths[0], paths[1:]
    if paths and not paths[0].exists() and paths[0].suffix.lower() not in EXTENSIONS:
        # Taken for an image, it would leave the others to the latest run.
        raise InputError(
            f"{paths[0]}: no such model, and no such image. Make a model with: self2self fit IMAGE, then: "
            "self2self export"
        )
    run, images = (Run(paths[0]), paths[1:]) if paths and paths[0].is_dir() else (Run.latest(), paths)
    image = Path(run.config().image)
    model = exported_path(run, precision or "fp32")
    if not images and not image.is_file():
        raise InputError(
            f"{image}: is not there any more, and {run.folder} was fitted on it. "
            f"Name the image: self2self infer {run.folder} IMAGE"
        )
    return model, images or [image]
