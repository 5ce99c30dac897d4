"""The command line: each command parses its options, runs one job and prints the result.

Algorithms are in the other rooms.
"""

from __future__ import annotations

import json
import re
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
from self2self.cli.gui import gui
from self2self.cli.infer import infer
from self2self.cli.panels import PanelCommand
from self2self.cli.predict import predict
from self2self.cli.runs import app as runs
from self2self.errors import StdoutError, shown
from self2self.version import VERSION

EXPECTED = {"integer": "a whole number", "number": "a number", "float": "a number"}
"""Types of options in Typer's messages, and what we call them."""

UsageError: Any = typer.BadParameter.__bases__[0]
"""Base class of errors in options and arguments; typer does not export a name for it."""

app = typer.Typer(
    name="self2self",
    help=(
        "Denoise an image without any clean or second noisy image.\n\n"
        "self2self denoise photo.png fits a small network to the noisy image. That network predicts the result in a "
        "single pass, or in many passes with random dropout where you ask for them. The fast recipe starts from "
        "weights pretrained on other photographs; --init scratch starts from random weights."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (denoise, fit, export, infer, predict, gui, engines, bench):
    app.command(cls=PanelCommand)(command)
app.add_typer(runs, name="runs")


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Handle the options of the program itself."""
    if version:
        print_result(VERSION)
        raise typer.Exit


def main() -> None:
    """Run the `self2self` command and exit with its code."""
    from self2self.machine.system import drop_wrong_thread_count, keep_freed_memory

    keep_freed_memory()
    arguments = sys.argv[1:]
    if (note := drop_wrong_thread_count()) and not {"-q", "--quiet"} & set(arguments):
        print_message(f"note: {note}.")
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        print_message(f"error: {_one_line(error, arguments)}")
        if "--json" in arguments:
            values = {"error": {"message": _one_line(error, arguments), "exit_code": error.exit_code}}
            print(json.dumps(values, indent=2))  # noqa: T201
        for name in arguments:
            if name.startswith("-") and Path(name).is_file():
                print(f"The file {name} looks like an option; type ./{name}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except typer.Abort:
        # Ctrl-C while options are parsed, or at a question.
        print_message("error: interrupted; nothing was begun.")
        sys.exit(130)
    except StdoutError as error:
        print_message(f"error: {error}")
        sys.exit(error.exit_code)
    sys.exit(code or 0)


def _one_line(error: Any, arguments: list[str]) -> str:
    """What is wrong with an option or an argument, and where to look.

    The texts of the versions of Typer and click differ, so they are ours where the error says enough.
    """
    message = " ".join(error.format_message().split())
    if hasattr(error, "possibilities"):
        kind = "option" if hasattr(error, "option_name") else "command"
        near = ", ".join(sorted(error.possibilities or ()))
        name = getattr(error, f"{kind}_name")
        message = f"No such {kind}: {shown(name)}" + (f" (similar: {near})" if near else "")
    elif unknown := re.fullmatch(r"No such command '(.*)'\.", message):
        message = f"No such command: {unknown[1]}"
    elif named := re.match(r"Invalid value for '(?:.* / )?([^']+)': ", message):
        expected = next((words for name, words in EXPECTED.items() if name in message), None)
        if expected is not None:
            message = f"{named[1]} is {_given(named[1], arguments)!r}; expected {expected}"
    help_of = error.ctx.command_path if error.ctx is not None else "self2self"
    return f"{message.rstrip('.')}. Type: {help_of} --help"


def _given(option: str, arguments: list[str]) -> str:
    """The value of `option` among `arguments`; its name stands before it, or in the same argument."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return ""
