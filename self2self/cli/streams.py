"""`-` among the arguments: an image from stdin, a result to stdout.

Files are needed, as a run remembers its image, and a result appears complete or not at all. So both go through a
temporary folder, whose path no message shows.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from self2self.cli.console import Console, writing_stdout
from self2self.errors import InputError, Self2SelfError, UsageError

STREAM = Path("-")


@dataclass(frozen=True, slots=True)
class Streams:
    """The arguments of a command with files in the place of `-`.

    Attributes:
        paths: models and images.
        output: as `-o` has it; the temporary folder if the result goes to stdout.
    """

    paths: list[Path]
    output: str | None


@contextlib.contextmanager
def standard_streams(paths: list[Path], output: str | None, console: Console) -> Iterator[Streams]:
    """Read stdin into a file if `-` is among `paths`; write the result to stdout if `output` is `-`.

    An image from stdin goes to stdout unless `output` is given. Text of the command then goes to stderr.

    Args:
        paths: arguments of the command.
        output: the text of `-o`; None if it was not given.
        console: of the command.

    Raises:
        UsageError: `-` is given twice, or stdout is to take two things.
        InputError: stdin is closed.
        StdoutError, BrokenPipeError: as `writing_stdout`.
    """
    from_stdin = paths.count(STREAM)
    to_stdout = output == str(STREAM) or (from_stdin > 0 and output is None)
    if not from_stdin and not to_stdout:
        yield Streams(paths, output)
        return
    if from_stdin > 1:
        raise UsageError("- is given twice, but there is one stdin. Give it once.")
    if to_stdout and console.as_json:
        raise UsageError("--json writes its document to stdout, so the image cannot go there. Name a file with -o.")
    from self2self.machine.files import scratch_folder

    with scratch_folder() as folder:
        source, results = folder / "stdin", folder / "stdout"
        results.mkdir()
        console.hidden_folders = (f"{results}/", f"{folder}/")
        console.stdout_is_taken = to_stdout
        if from_stdin:
            _read_stdin(source)
        try:
            yield Streams(
                [source if path == STREAM else path for path in paths], f"{results}/" if to_stdout else output
            )
            if to_stdout:
                _write_to_stdout(results)
        except Self2SelfError as error:
            error.args = (console.shown(str(error)),)
            raise


def _read_stdin(target: Path) -> None:
    if sys.stdin is None:
        raise InputError("-: stdin is closed; expected an image there. Name a file instead.")
    with target.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)


def _write_to_stdout(results: Path) -> None:
    files = [path for path in results.iterdir() if path.is_file()]
    with writing_stdout():
        for path in files:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
