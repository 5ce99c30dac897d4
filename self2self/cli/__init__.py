"""The command line: options in, one job each, results out. No algorithm lives here."""

from __future__ import annotations

from typing import Annotated

import typer

from self2self.cli.bench import bench
from self2self.cli.denoise import denoise
from self2self.cli.engines import engines
from self2self.cli.export import export
from self2self.cli.fit import fit
from self2self.cli.infer import infer

app = typer.Typer(
    name="self2self",
    help=(
        "Denoise an image with nothing but that image.\n\n"
        "self2self denoise photo.png fits a small network to the noisy image and averages many passes of it "
        "with live dropout. The fast recipe starts from weights that have seen other photographs; "
        "--init scratch starts from nothing."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (denoise, fit, export, infer, engines, bench):
    app.command()(command)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options of the program itself."""
    if version:
        from self2self import __version__

        print(__version__)  # noqa: T201
        raise typer.Exit


def main() -> None:
    """Entry point of the `self2self` command."""
    app()
