"""The file of `--log`: what a command was told, found, wrote and refused, with times.

Lines are added to an existing file. One command at a time runs in a process, so the open file is kept here, where all
output of the command passes by.
"""

from __future__ import annotations

import platform
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from self2self.errors import writing
from self2self.version import VERSION

_file: TextIO | None = None


def log(text: str) -> None:
    """Add `text` to the log, if there is one; a full disk does not end the command."""
    if _file is None:
        return
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):
        for line in text.splitlines():
            print(f"{now}  {line}", file=_file, flush=True)


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Send the lines of `log` to the file `path` until the end of the block; None for no log.

    A traceback, which only a bug has, is logged, too.

    Raises:
        OutputError, ResourceError: the file cannot be opened.
    """
    global _file
    if path is None:
        yield
        return
    with writing(f"--log {path}", "choose another file"):
        file = path.open("a", encoding="utf-8")
    with file:
        _file = file
        log(f"self2self {VERSION}, Python {platform.python_version()}, {platform.platform()}")
        log(shlex.join(["self2self", *sys.argv[1:]]))
        try:
            yield
        except Exception as error:
            # The end of a command, and errors that it has reported, have an exit code.
            if not hasattr(error, "exit_code"):
                log(traceback.format_exc())
            raise
        finally:
            _file = None
