"""The command line: options in, one job each, results out. No algorithm lives here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from self2self.cli.bench import bench
from self2self.cli.denoise import denoise
from self2self.cli.engines import engines
from self2self.cli.export import export
from self2self.cli.fit import fit
from self2self.cli.infer import infer

UsageError: Any = typer.BadParameter.__bases__[0]
"""Wrong options and arguments; typer gives that class no name of its own."""

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
    from self2self.machine.system import limit_spin_wait

    limit_spin_wait()
    arguments = sys.argv[1:]
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        error.show()
        if "--json" in arguments:
            message = " ".join(error.format_message().split())
            print(json.dumps({"error": {"message": message, "exit_code": error.exit_code}}, indent=2))  # noqa: T201
        for name in arguments:
            if name.startswith("-") and Path(name).is_file():
                print(f"The file {name} looks like an option; type ./{name}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(1)
    sys.exit(code or 0)
