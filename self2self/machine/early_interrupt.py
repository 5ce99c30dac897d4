"""Ctrl-C before a command has begun: one line and exit code 130 at once.

An exception could be lost in the import of a library, and Typer ends without a word. This module imports nothing slow.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

MESSAGE = "interrupted; nothing was begun."
EXIT_CODE = 130


def end_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, until `raise_on_interrupt`; where it is ignored or handled, that stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, from when there is something to say about it."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_at_once(*_: object) -> NoReturn:
    """End the process with one line, and with a JSON document where one was asked for."""
    document = f'{{"error": {{"message": "{MESSAGE}", "exit_code": {EXIT_CODE}}}}}\n'
    try:
        os.write(2, f"error: {MESSAGE}\n".encode())
        if "--json" in sys.argv:
            os.write(1, document.encode())
    except OSError:
        # A stream that is closed or full wants nothing.
        pass
    os._exit(EXIT_CODE)
