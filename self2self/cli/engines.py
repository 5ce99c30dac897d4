"""`self2self engines`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from self2self.cli.console import Console, reported
from self2self.cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from self2self.runtime.engines.probe import ProbeResult


@reported
def engines(
    timeout: Annotated[
        float, typer.Option("--timeout", help="Most seconds that one engine may take.", metavar="SECONDS")
    ] = 60.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Which engines work on this machine, and why the others do not.

    Each engine runs a small model in a process of its own, and its numbers are checked.
    """
    from dataclasses import asdict

    from self2self.runtime.engines.probe import notes, probe_engines

    console = Console(as_json=as_json, quiet=quiet)
    found, remarks = probe_engines(timeout), notes()
    values = {"engines": [asdict(row) for row in found], "notes": remarks}
    console.result("\n".join([table(found), *(f"note: {text}" for text in remarks)]), values)


def table(rows: list[ProbeResult]) -> str:
    """The engines as aligned columns; what is in the way of one, and what helps, on lines below it."""
    lines = [("engine", "state", "version", "device")]
    lines += [
        (row.name, "works" if row.works else "does not work", row.version or "-", row.device or "-") for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    below = [""] + ["".join(f"\n    {text}" for text in (row.reason, row.fix) if text) for row in rows]
    return "\n".join(map("".join, zip(texts, below, strict=True)))
