"""The command `self2self engines`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from self2self.cli.console import Console, exits_with_code
from self2self.cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from self2self.runtime.engines.probe import ProbeResult


@exits_with_code
def engines(
    timeout: Annotated[
        float, typer.Option("--timeout", help="Time limit for the test of each engine.", metavar="SECONDS")
    ] = 60.0,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            help="Compare the passes of each engine over this model with PyTorch's, instead of those of a tiny model.",
            metavar="MODEL",
            show_default=False,
            readable=False,
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the engines that work on this machine.

    For every other engine, the list gives the reason and a remedy. Each engine is tested: it runs a small model in a
    separate process, and its result is checked.
    """
    from dataclasses import asdict

    from self2self.errors import Obstacle, VerificationError
    from self2self.runtime.engines.probe import notes, probe_engines

    console = Console(as_json=as_json, quiet=quiet)
    found, remarks = probe_engines(timeout, check), notes()
    values = {"engines": [asdict(row) for row in found], "notes": remarks}
    console.result("\n".join([table(found), *(f"note: {text}" for text in remarks)]), values)
    wrong = [row.name for row in found if row.cause == Obstacle.WRONG_RESULT]
    if check is not None and wrong:
        raise VerificationError(f"{check}: {', '.join(wrong)} computes other numbers than PyTorch. Use another engine.")


def table(rows: list[ProbeResult]) -> str:
    """Format the engines as aligned columns; below an engine that does not work: the reason and the remedy."""
    lines = [("engine", "state", "version", "device")]
    lines += [
        (row.name, "works" if row.works else "does not work", row.version or "-", row.device or "-") for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    below = [""] + ["".join(f"\n    {text}" for text in (row.reason, row.fix) if text) for row in rows]
    return "\n".join(map("".join, zip(texts, below, strict=True)))
