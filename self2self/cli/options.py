"""Options that several commands share, and the functions that parse their texts.

Options for files have `readable=False`. Typer then does not check the file, and its reader reports a file that cannot
be read, so that one unreadable image does not stop a whole batch.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from self2self.cli.panels import FIT, IMAGE, MANY, PASSES, PROGRAMS
from self2self.errors import UsageError, shown

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document on stdout.", rich_help_panel=PROGRAMS)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors, and the JSON with --json.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print how the result was made.")]
Log = Annotated[
    Path | None,
    typer.Option(
        "--log",
        help="Add all messages, with times, to FILE.",
        metavar="FILE",
        show_default=False,
        readable=False,
        rich_help_panel=PROGRAMS,
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace existing files.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random numbers, 0 or more.", rich_help_panel=PROGRAMS)]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        help="Settings of network and fit: fast, paper, paper-polyu or paper-sidd.",
        metavar="NAME",
        rich_help_panel=FIT,
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        help="Start weights: pretrained (on other photographs; default of fast), scratch (random; "
        "the fit sees nothing but your image; default of the paper recipes), or the run folder of an earlier fit.",
        metavar="scratch|pretrained|RUN",
        show_default=False,
        rich_help_panel=FIT,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        help="Training steps; 0 uses the start weights without a fit.  [default: from the recipe]",
        show_default=False,
        rich_help_panel=FIT,
    ),
]
DropRate = Annotated[
    float | None,
    typer.Option(
        "--drop-rate",
        help="Drop rate: share of pixels that are hidden from the network, from 0.01 to 0.99.  "
        "[default: from the recipe; fast chooses it from the noise]",
        show_default=False,
        rich_help_panel=FIT,
    ),
]
Sigma = Annotated[
    float | None,
    typer.Option(
        "--sigma",
        help="Noise level, in grey levels of 255, if you know it.  [default: found in the image]",
        show_default=False,
    ),
]
Strength = Annotated[
    float,
    typer.Option(
        "--strength",
        help="How much to denoise, from 0 to 2: 1 removes the noise that was found; less leaves some of it, more "
        "smooths further.",
    ),
]
Iqa = Annotated[
    bool | None,
    typer.Option(
        "--iqa/--no-iqa",
        help="Add the paper's image quality term (PaQ-2-PiQ) to the loss. It needs the package pyiqa and 47 MB of "
        "weights, both for non-commercial use only.  [default: no-iqa; with --resume, the setting of the fit]",
        show_default=False,
        rich_help_panel=FIT,
    ),
]
IqaWeightsFile = Annotated[
    Path | None,
    typer.Option(
        "--iqa-weights",
        help="File with weights of PaQ-2-PiQ, instead of the published ones; implies --iqa.",
        metavar="FILE",
        show_default=False,
        readable=False,
        rich_help_panel=FIT,
    ),
]
Device = Annotated[str, typer.Option("--device", help="Device for the fit: auto, cpu or cuda.", rich_help_panel=FIT)]
Page = Annotated[
    int | None,
    typer.Option(
        "--page",
        help="Page of a stack to fit to; the first page is 1.  [default: the first that is not empty]",
        metavar="N",
        show_default=False,
        rich_help_panel=IMAGE,
    ),
]
FitPages = Annotated[
    str,
    typer.Option(
        "--fit-pages",
        help="For a stack. first: fit one page, and denoise all pages with that model; each: fit every page, "
        "starting from the fit of the previous page.",
        metavar="first|each",
        rich_help_panel=IMAGE,
    ),
]
Recursive = Annotated[
    bool,
    typer.Option(
        "--recursive",
        "-r",
        help="Search folders in folders, too; the folder of -o gets the same inner folders.",
        rich_help_panel=MANY,
    ),
]
PartText = Annotated[
    str | None,
    typer.Option(
        "--part",
        help="Take part K of N of the images alone, or of the blocks of a volume, so that N machines share the work.",
        metavar="K/N",
        show_default=False,
        rich_help_panel=MANY,
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="Denoise on the workers of a Dask scheduler: its address, or the file that it writes (docs/cluster.md).",
        metavar="ADDRESS",
        show_default=False,
        rich_help_panel=MANY,
    ),
]
NoSharedDisk = Annotated[
    bool,
    typer.Option(
        "--no-shared-disk",
        help="With --scheduler: workers do not see the files here, so images and results travel over the network.",
        rich_help_panel=MANY,
    ),
]
ManifestFile = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        help="Add a line of JSON to FILE for each image: its state, noise, seconds and error.",
        metavar="FILE",
        show_default=False,
        readable=False,
        rich_help_panel=MANY,
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(
        "--like",
        help="Make one fit, to FILE, for all images: a series with one camera and setting.",
        metavar="FILE",
        show_default=False,
        readable=False,
        rich_help_panel=MANY,
    ),
]
Neighbours = Annotated[
    str,
    typer.Option(
        "--neighbours",
        help="For a stack: number of pages on each side that every page is fused with where they show the same; auto: "
        "as many as fit.",
        metavar="auto|0|1|2",
        rich_help_panel=IMAGE,
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Wait while another command works in the run folder or writes the same output, instead of ending.",
        rich_help_panel=PROGRAMS,
    ),
]
NodataText = Annotated[
    str | None,
    typer.Option(
        "--nodata",
        help="Value of pixels that hold no measurement: they count for nothing and stay as they are. none: no value "
        "stands for them.  [default: NaN, GDAL's tag, or a constant far from all other values]",
        metavar="VALUE|none",
        show_default=False,
        rich_help_panel=IMAGE,
    ),
]
Mosaic = Annotated[
    bool | None,
    typer.Option(
        "--mosaic/--no-mosaic",
        help="Whether a grey image is a mosaic of colour filters, as raw files of cameras hold it.  "
        "[default: its values tell]",
        show_default=False,
        rich_help_panel=IMAGE,
    ),
]
Axes = Annotated[
    str | None,
    typer.Option(
        "--axes",
        help="A letter for each axis of a volume: T time, C channel, Z depth, Y row, X column, S sample of a colour.  "
        "[default: as the file names them, or by the shape]",
        metavar="TCZYX",
        show_default=False,
        rich_help_panel=IMAGE,
    ),
]
ChannelAxis = Annotated[
    int | None,
    typer.Option(
        "--channel-axis",
        help="Number of the axis of channels of a volume, from 0, in place of --axes.",
        metavar="N",
        show_default=False,
        rich_help_panel=IMAGE,
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine", help="Library that runs the passes; for a list, type: self2self engines.", rich_help_panel=PASSES
    ),
]
Passes = Annotated[
    str | None,
    typer.Option(
        "--passes",
        help="Number of passes to average; auto takes 50 or more, and stops when the standard error of "
        "their mean reaches --tolerance.  "
        "[default: auto; 500 for the paper recipes]",
        metavar="auto|N",
        show_default=False,
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        help="Standard error at which --passes auto stops, in grey levels: 1/255 of the image's range.  "
        "[default: 0.25]",
        metavar="GREY LEVELS",
        show_default=False,
        rich_help_panel=PASSES,
    ),
]
Masks = Annotated[
    str | None,
    typer.Option(
        "--masks",
        help="Dropout masks. balanced: each block of ten passes drops every element equally often, so fewer passes "
        "are needed; independent: as in the paper.  [default: balanced; independent for the paper recipes]",
        metavar="balanced|independent",
        show_default=False,
        rich_help_panel=PASSES,
    ),
]
Flips = Annotated[
    bool | None,
    typer.Option(
        "--flips/--no-flips",
        help="Mirror the image for a part of the passes.  [default: flips; no-flips for the paper recipes]",
        show_default=False,
        rich_help_panel=PASSES,
    ),
]
Batch = Annotated[
    str,
    typer.Option(
        "--batch",
        help="Passes that run at the same time; changes the speed, not the result.",
        metavar="auto|N",
        rich_help_panel=PASSES,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help="Memory limit for the passes, for example 2GB or 512MiB; a larger image is processed in tiles.  "
        "[default: half of the free memory]",
        metavar="SIZE",
        show_default=False,
        rich_help_panel=PASSES,
    ),
]
MaskSource = Annotated[
    str,
    typer.Option(
        "--mask-source",
        help="Where masks are drawn: host (CPU), device (GPU; GPU engines only) or auto.",
        metavar="auto|host|device",
        rich_help_panel=PASSES,
    ),
]
AllowFallback = Annotated[
    bool,
    typer.Option(
        "--allow-fallback", help="If the engine does not work on this machine, use another one.", rich_help_panel=PASSES
    ),
]
Precision = Annotated[
    str, typer.Option("--precision", help="Floating-point type of the model: fp32, fp16 or bf16.", metavar="NAME")
]
ImageOutput = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        help="File for the result, or a folder, which is made: for several images, or with a slash at its end; - is "
        "stdout.  [default: IMAGE.denoised.EXT]",
        metavar="PATH",
        show_default=False,
    ),
]
Uncertainty = Annotated[
    Path | None,
    typer.Option(
        "--uncertainty",
        help="Also write the standard deviation of the passes, for each pixel, to FILE (.tif or .png).",
        metavar="FILE",
        readable=False,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        help="Also write a page with images, charts and measurements to FILE (.html). "
        "It needs an extra: pip install 'self2self[report]'.",
        metavar="FILE",
        readable=False,
    ),
]


MEMORY_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{end}": base**power for power, prefix in enumerate("KMGT", 1) for base, end in ((1000, "B"), (1024, "iB"))
}


def parse_memory(text: str | None) -> int | None:
    """Parse a size of memory in bytes: `2GB` (10^9 each), `512MiB` (2^20 each) or a plain number of bytes.

    Raises:
        UsageError: the text is none of them.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?", text.strip(), re.IGNORECASE)
    unit = (match[2] or "").upper().replace("I", "i") if match else ""
    if match is None or unit not in MEMORY_UNITS or not (size := int(float(match[1]) * MEMORY_UNITS[unit])):
        raise UsageError(f"--memory is {text!r}; expected a size such as 2GB, 512MB or 1.5GiB.")
    return size


def parse_nodata(text: str | None) -> float | Literal["none"] | None:
    """Parse the value of missing pixels, or `none`; NaN always is missing, so it means `none`.

    Raises:
        UsageError: the text is neither.
    """
    if text is None:
        return None
    try:
        value = None if text == "none" else float(text)
    except ValueError:
        raise UsageError(f"--nodata is {text!r}; expected a number such as -9999, or none.") from None
    return value if value is not None and math.isfinite(value) else "none"


def parse_neighbours(text: str) -> str | int:
    """Parse a number of neighbours; any other text stays as it is, for `FitOptions.check`."""
    return int(text) if text.isdecimal() else text


def parse_batch(text: str) -> int | None:
    """Parse a batch: a number, or None for `auto`.

    Raises:
        UsageError: the text is neither.
    """
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--batch is {text!r}; expected auto or a number from 1 up.") from None


def parse_passes(text: str | None) -> int | Literal["auto"] | None:
    """Parse a number of passes, or `auto`.

    Raises:
        UsageError: the text is neither.
    """
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--passes is {text!r}; expected auto or a number from 1 up.") from None


def parse_masks(text: str | None) -> bool | None:
    """Parse `balanced` to True and `independent` to False.

    Raises:
        UsageError: the text is neither.
    """
    if text not in (None, "balanced", "independent"):
        raise UsageError(f"--masks is {text!r}; expected balanced or independent.")
    return None if text is None else text == "balanced"


def parse_batches(text: str) -> tuple[int, int, int]:
    """Parse `1,8,32` to the smallest, the optimal and the largest batch.

    Raises:
        UsageError: the text is not three numbers.
    """
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise UsageError(f"--batch is {text!r}; expected three numbers, for example --batch 1,8,32.")
    smallest, optimal, largest = map(int, numbers)
    return smallest, optimal, largest


def parse_size(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """Parse `512x768` to (height, width).

    Raises:
        UsageError: the text is something else.
    """
    if text is None:
        return None
    if (size := _height_and_width(text)) is None:
        raise UsageError(f"{option} is {text!r}; expected HEIGHTxWIDTH, for example {option} 512x768.")
    return size


def parse_shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """Parse `x=1,3,224,224` to the name of an input and its shape, each.

    Raises:
        UsageError: a text is something else.
    """
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not name or not all(size.isdecimal() and int(size) > 0 for size in sizes.split(",")):
            raise UsageError(f"--shape is {shown(text)!r}; expected NAME=N,N,..., for example --shape x=1,3,224,224.")
        shapes[name] = tuple(map(int, sizes.split(",")))
    return shapes


def parse_side(text: str) -> tuple[int, int]:
    """Parse `256` to (256, 256), and `512x768` to (height, width).

    Raises:
        UsageError: the text is neither.
    """
    if (size := _height_and_width(text) or _height_and_width(f"{text}x{text}")) is None:
        raise UsageError(f"--size is {text!r}; expected a side or HEIGHTxWIDTH, for example --size 256.")
    return size


def _height_and_width(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)x(\d+)", text.lower())
    return None if match is None else (int(match[1]), int(match[2]))
