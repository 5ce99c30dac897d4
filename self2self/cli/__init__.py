"""The command line: each command parses its options, runs one job and prints the result.

Algorithms are in the other rooms.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from self2self.cli.bench import bench
from self2self.cli.console import print_message, print_result
from self2self.cli.denoise import denoise
from self2self.cli.engines import engines
from self2self.cli.export import export
from self2self.cli.fit import fit
from self2self.cli.infer import infer
from self2self.errors import StdoutError

UsageError: Any = typer.BadParameter.__bases__[0]
"""Base class of errors in options and arguments; typer does not export a name for it."""

app = typer.Typer(
    name="self2self",
    help=(
        "Denoise an image without any clean or second noisy image.\n\n"
        "self2self denoise photo.png fits a small network to the noisy image. The result is the mean of many "
        "predictions (passes) of that network with random dropout. The fast recipe starts from weights pretrained on "
        "other photographs; --init scratch starts from random weights."
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
    """Handle the options of the program itself."""
    if version:
        from self2self import __version__

        print_result(__version__)
        raise typer.Exit


def main() -> None:
    """Run the `self2self` command and exit with its code."""
    from self2self.machine.system import drop_wrong_thread_count

    arguments = sys.argv[1:]
    if (note := drop_wrong_thread_count()) and not {"-q", "--quiet"} & set(arguments):
        print_message(f"note: {note}.")
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
    except StdoutError as error:
        print_message(f"error: {error}")
        sys.exit(error.exit_code)
    sys.exit(code or 0)
