"""Options that several commands share, and how their texts are read.

Files are `readable=False`: typer then leaves it to their reader to say why one cannot be read, so that it does not
stop a whole batch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from self2self.errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors (and the JSON).")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace files that exist.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice, 0 or more.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="fast, paper, paper-polyu or paper-sidd.", metavar="NAME")]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        help="First weights: natural (pre-fitted to other photographs; default of fast), "
        "scratch (nothing but your image), or the folder of an earlier run.",
        metavar="scratch|natural|RUN",
        show_default=False,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        help="Training steps; 0 takes the start weights as they are.  [default: the recipe's]",
        show_default=False,
    ),
]
DropRate = Annotated[
    float | None,
    typer.Option(
        "--drop-rate",
        help="Share of pixels hidden from the network.  [default: the recipe's; fast chooses it from the noise]",
        show_default=False,
    ),
]
Iqa = Annotated[
    bool | None,
    typer.Option(
        "--iqa/--no-iqa",
        help="Add the paper's image quality term (PaQ-2-PiQ), which needs pyiqa and 47 MB of weights, both for "
        "non-commercial use.  [default: no-iqa; with --resume as before]",
        show_default=False,
    ),
]
IqaWeightsFile = Annotated[
    Path | None,
    typer.Option(
        "--iqa-weights",
        help="Weights of PaQ-2-PiQ to use instead of the published ones; turns --iqa on.",
        metavar="FILE",
        show_default=False,
        readable=False,
    ),
]
Device = Annotated[str, typer.Option("--device", help="Where to fit: auto, cpu or cuda.")]
Page = Annotated[
    int | None,
    typer.Option(
        "--page", help="Page of a TIFF stack to fit to, from 1.  [default: 1]", metavar="N", show_default=False
    ),
]
FitPages = Annotated[
    str,
    typer.Option(
        "--fit-pages",
        help="Of a TIFF stack: first fits one page and runs all pages through that model; each fits every page, "
        "starting from the fit of the page before.",
        metavar="first|each",
    ),
]
EngineName = Annotated[str, typer.Option("--engine", help="What runs the passes; see: self2self engines.")]
Passes = Annotated[
    str | None,
    typer.Option(
        "--passes",
        help="Stochastic passes to average; auto ends when their mean is known to --tolerance.  "
        "[default: auto; 500 for the paper recipes]",
        metavar="auto|N",
        show_default=False,
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        help="Standard error at which --passes auto ends, in 255ths of the image's range.  [default: 0.25]",
        metavar="GREY LEVELS",
        show_default=False,
    ),
]
Masks = Annotated[
    str | None,
    typer.Option(
        "--masks",
        help="balanced: every ten passes drop every element equally often, so fewer passes are needed; "
        "independent: as in the paper.  [default: balanced, but for the paper recipes]",
        metavar="balanced|independent",
        show_default=False,
    ),
]
Flips = Annotated[
    bool | None,
    typer.Option(
        "--flips/--no-flips",
        help="Let passes take turns in seeing the image mirrored.  [default: flips, but for the paper recipes]",
        show_default=False,
    ),
]
Batch = Annotated[
    str, typer.Option("--batch", help="Passes at a time, or auto; changes speed, not the result.", metavar="auto|N")
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help="Most memory to take for the passes, for example 2GB or 512MiB; larger images are cut into tiles.  "
        "[default: half of what is free]",
        metavar="SIZE",
        show_default=False,
    ),
]
MaskSource = Annotated[
    str,
    typer.Option(
        "--mask-source", help="Where masks are made: auto, host or device (GPU engines).", metavar="auto|host|device"
    ),
]
AllowFallback = Annotated[
    bool, typer.Option("--allow-fallback", help="Let another engine stand in for one that does not work here.")
]
Precision = Annotated[
    str, typer.Option("--precision", help="What the model computes in: fp32, fp16 or bf16.", metavar="NAME")
]
ImageOutput = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        help="Result; a folder for several images.  [default: IMAGE.denoised.EXT]",
        metavar="PATH",
        show_default=False,
    ),
]
Uncertainty = Annotated[
    Path | None,
    typer.Option(
        "--uncertainty",
        help="Also write the standard deviation over the passes to FILE.",
        metavar="FILE",
        readable=False,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        help="Also write a page with pictures and figures to FILE (.html).",
        metavar="FILE",
        readable=False,
    ),
]


MEMORY_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{end}": base**power for power, prefix in enumerate("KMGT", 1) for base, end in ((1000, "B"), (1024, "iB"))
}


def parse_memory(text: str | None) -> int | None:
    """`2GB` (10^9), `512MiB` (2^20) or a number of bytes, to bytes.

    Raises:
        UsageError: it is none of them.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?", text.strip(), re.IGNORECASE)
    unit = (match[2] or "").upper().replace("I", "i") if match else ""
    if match is None or unit not in MEMORY_UNITS or not (size := int(float(match[1]) * MEMORY_UNITS[unit])):
        raise UsageError(f"--memory is {text!r}; expected a size such as 2GB, 512MB or 1.5GiB.")
    return size


def parse_batch(text: str) -> int | None:
    """`auto` to None, a number to itself."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--batch is {text!r}; expected auto or a number from 1 up.") from None


def parse_passes(text: str | None) -> int | Literal["auto"] | None:
    """`auto` to itself, a number to itself."""
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--passes is {text!r}; expected auto or a number from 1 up.") from None


def parse_masks(text: str | None) -> bool | None:
    """Whether masks are balanced."""
    if text not in (None, "balanced", "independent"):
        raise UsageError(f"--masks is {text!r}; expected balanced or independent.")
    return None if text is None else text == "balanced"


def parse_output(text: str | None) -> Path | None:
    """The place of a result; a slash at its end, which a path does not keep, asks for a folder.

    Raises:
        UsageError: there is no such folder.
    """
    if text is None:
        return None
    path = Path(text)
    if text.endswith(("/", os.sep)) and not path.is_dir():
        raise UsageError(f"-o {text}: there is no such folder. Make it: mkdir -p {path}")
    return path


def parse_batches(text: str) -> tuple[int, int, int]:
    """`1,8,32` to the least, best and greatest batch."""
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise UsageError(f"--batch is {text!r}; expected three numbers, for example --batch 1,8,32.")
    least, best, most = map(int, numbers)
    return least, best, most


def parse_size(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """`512x768` to (height, width).

    Raises:
        UsageError: it is something else.
    """
    if text is None:
        return None
    if (size := _height_and_width(text)) is None:
        raise UsageError(f"{option} is {text!r}; expected HEIGHTxWIDTH, for example {option} 512x768.")
    return size


def parse_side(text: str) -> tuple[int, int]:
    """`256` to (256, 256), and `512x768` to (height, width).

    Raises:
        UsageError: it is neither.
    """
    if (size := _height_and_width(text) or _height_and_width(f"{text}x{text}")) is None:
        raise UsageError(f"--size is {text!r}; expected a side or HEIGHTxWIDTH, for example --size 256.")
    return size


def _height_and_width(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)x(\d+)", text.lower())
    return None if match is None else (int(match[1]), int(match[2]))
