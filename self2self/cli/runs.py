"""The commands `self2self runs list` and `self2self runs clean`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from self2self.cli.console import Console, exits_with_code
from self2self.cli.options import AsJson, Quiet
from self2self.errors import UsageError

if TYPE_CHECKING:
    from self2self.jobs.runs import StoredRun

DEFAULT_DAYS = 30.0
MEGABYTE = 1e6

app = typer.Typer(
    help="List the fits that were kept, and remove those that are not needed any more.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
@exits_with_code
def list_command(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the fits that were kept, with their size.

    They are in the cache folder, which the environment variable SELF2SELF_CACHE changes, and in the folder runs here.
    """
    from self2self.jobs.runs import list_runs
    from self2self.train.run_folder import cached_runs

    console = Console(as_json=as_json, quiet=quiet)
    runs = list_runs()
    values = {"folder": str(cached_runs()), "bytes": _bytes(runs), "runs": [stored.to_json() for stored in runs]}
    console.result("\n".join([f"{cached_runs()}: {_summary(runs)}", *_table(runs)]), values)


@app.command("clean")
@exits_with_code
def clean_command(
    older_than: Annotated[
        float, typer.Option("--older-than", help="Remove fits that were not used for so many days.", metavar="DAYS")
    ] = DEFAULT_DAYS,
    every: Annotated[bool, typer.Option("--all", help="Remove all fits, whenever they were used.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Remove fits from the cache folder.

    A fit that is in use stays, and so does a folder with other files. Fits in folders that you named (--run, fit -o)
    are never removed.
    """
    from self2self.jobs.runs import removable_runs, remove_runs

    if older_than < 0:
        raise UsageError(f"--older-than is {older_than:g}; expected a number of days from 0 up.")
    console = Console(as_json=as_json, quiet=quiet)
    runs = removable_runs(0.0 if every else older_than)
    if runs and not yes:
        _ask(runs)
    with console.progress() as observer:
        removed = remove_runs(runs, observer)
    values = {"removed": [stored.to_json() for stored in removed], "bytes": _bytes(removed)}
    age = "" if every else f" that were not used for {older_than:g} days"
    console.result(f"removed {_summary(removed)}" if runs else f"nothing to remove: no runs{age}", values)


def _ask(runs: list[StoredRun]) -> None:
    """Ask on the terminal whether to remove `runs`.

    Raises:
        UsageError: there is nobody to ask.
        typer.Abort: the answer is no.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"{_summary(runs)} would be removed. To remove them without a question: --yes")
    typer.echo("\n".join(_table(runs)), err=True)
    typer.confirm(f"Remove {_summary(runs)}?", abort=True, err=True)


def _table(runs: list[StoredRun]) -> list[str]:
    rows = [
        (
            str(stored.run.folder),
            _size(stored.bytes),
            _age(stored.age_days),
            "finished" if stored.run.is_fitted() else "unfinished",
            stored.image or "its config.json is damaged",
        )
        for stored in runs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _age(days: float) -> str:
    whole = int(days)
    return "used today" if whole == 0 else f"used {whole} day{'s' * (whole > 1)} ago"


def _bytes(runs: list[StoredRun]) -> int:
    return sum(stored.bytes for stored in runs)


def _summary(runs: list[StoredRun]) -> str:
    return f"{len(runs)} run{'s' * (len(runs) != 1)}, {_size(_bytes(runs))}"


def _size(count: int) -> str:
    return f"{count / MEGABYTE:.1f} MB"
