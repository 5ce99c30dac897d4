"""Start the `self2self` command, also as `python -m self2self`.

This module imports nothing slow, so that `main` can handle Ctrl-C during the import of all other modules.
"""

from __future__ import annotations

import os
import sys

from self2self.machine.early_interrupt import end_at_once, end_on_interrupt


def main() -> None:
    """Run the command; Ctrl-C during its imports ends the process with one line, and with exit code 130."""
    end_on_interrupt()
    open_closed_streams()
    # NumPy multiplies and decomposes small matrices alone here. Its threads would wait for one another, and spin.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from self2self import cli

        cli.main()
    except KeyboardInterrupt:
        end_at_once()


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
