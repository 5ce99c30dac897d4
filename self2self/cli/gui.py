"""The command `self2self gui`."""

from __future__ import annotations

from typing import Annotated

import typer

from self2self.cli.console import Console, exits_with_code
from self2self.cli.options import Quiet


@exits_with_code
def gui(
    port: Annotated[
        int | None,
        typer.Option(
            "--port", help="Port of the page.  [default: 8765, or a free one]", metavar="PORT", show_default=False
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open no browser.")] = False,
    quiet: Quiet = False,
) -> None:
    """Open a page in the browser: drop images, watch them improve, compare, save.

    The page is for this computer alone, and loads nothing from the internet. It needs the extra gui (pip install
    'self2self[gui]'). Ctrl-C ends it, and removes its files.
    """
    from self2self.gui.server import serve

    console = Console(as_json=False, quiet=quiet)

    def on_ready(address: str) -> None:
        console.line(f"{address}\nself2self gui is running. To end it: Quit on the page, or Ctrl-C.")
        if not no_browser:
            import webbrowser

            webbrowser.open(address)

    serve(port, on_ready)
