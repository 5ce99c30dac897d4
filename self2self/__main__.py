"""Start the `self2self` command, also as `python -m self2self`.

This module imports nothing slow, so that `main` can handle Ctrl-C during the import of all other modules.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

INTERRUPTED = "interrupted; nothing was begun."
INTERRUPTED_EXIT_CODE = 130


def main() -> None:
    """Run the command; Ctrl-C during its imports ends the process with one line, and with exit code 130."""
    # Whoever starts the command in the background may have Ctrl-C ignored, which then stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # An exception could be lost in the import of a library.
        signal.signal(signal.SIGINT, end_at_once)
    open_closed_streams()
    try:
        from self2self import cli

        if signal.getsignal(signal.SIGINT) is end_at_once:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
    except KeyboardInterrupt:
        end_at_once()


def end_at_once(*_: object) -> NoReturn:
    """End the process before anything was begun, as Ctrl-C asks."""
    document = f'{{"error": {{"message": "{INTERRUPTED}", "exit_code": {INTERRUPTED_EXIT_CODE}}}}}\n'
    try:
        os.write(2, f"error: {INTERRUPTED}\n".encode())
        if "--json" in sys.argv:
            os.write(1, document.encode())
    except OSError:
        # A stream that is closed or full wants nothing.
        pass
    os._exit(INTERRUPTED_EXIT_CODE)


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that the caller has closed.

    Otherwise the next file that is opened, such as a result, would get the number of the stream, and messages of
    libraries would go into it.
    """
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is that of the stream.
            os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    main()
