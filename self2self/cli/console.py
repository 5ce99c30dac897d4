"""Write the output of a command: results to stdout; progress, notes and errors to stderr."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast

import typer

from self2self.cli.log import log, logging_to
from self2self.errors import ResourceError, Self2SelfError, StdoutError, as_option, pytorch_memory, speaking
from self2self.machine.early_interrupt import raise_on_interrupt

if TYPE_CHECKING:
    from self2self.jobs import Observer
    from self2self.runtime.ensemble.moments import PassSums
    from self2self.train.session import FitReport

LINE_WIDTH_WITHOUT_NAME = 66
"""Columns of a line with a progress bar, without the name of the file."""

MINIMUM_NAME_WIDTH = 12
"""Columns for the name of the file on the narrowest terminal."""

DETAIL_WIDTH = 26
"""Columns for loss and speed."""

SPEED_SECONDS = 600.0
"""Time over which the speed of a phase is averaged. A view of a large tile may take longer than the usual 30 s, after
which nothing would be known of the time left."""

DONE_ALREADY = "done already. To make it anew: --force"
"""What a command says of a file that an earlier run of the same command has finished."""

P = ParamSpec("P")
R = TypeVar("R")


def print_result(text: str) -> None:
    """Print `text` on stdout at once, so that a log does not show it below later notes; raises as `writing_stdout`."""
    with writing_stdout():
        print(text, flush=True)  # noqa: T201


@contextmanager
def writing_stdout() -> Iterator[None]:
    """Turn an error of the block, which writes to stdout, into one line for the user.

    Raises:
        StdoutError: stdout cannot be written.
        BrokenPipeError: stdout has no reader any more.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_stdout()
        raise StdoutError(
            f"cannot write to stdout ({error.strerror}); files that were written are complete."
        ) from error


def drop_stdout() -> None:
    """Send what is still to be printed to the null device; Python would fail again when it flushes stdout at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_message(text: str) -> None:
    """Print `text` on stderr; a command also works where stderr cannot be written."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)  # noqa: T201


class Console:
    """The output of one command.

    Args:
        as_json: print one JSON document on stdout and no text.
        quiet: print no results, no progress and no notes; errors are still printed.
        verbose: also print how results were made.

    All of it goes to the log of `--log`, too, even what is not printed.

    Attributes:
        stdout_is_taken: stdout is for an image, so text goes to stderr.
        hidden_folders: beginnings of paths that are left out of all texts.
    """

    def __init__(self, *, as_json: bool, quiet: bool, verbose: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self.stdout_is_taken = False
        self.hidden_folders: tuple[str, ...] = ()

    def shown(self, text: str) -> str:
        """The text without the folders that nobody needs to see."""
        for folder in self.hidden_folders:
            text = text.replace(folder, "")
        return text

    def result(self, text: str, values: Any) -> None:
        """Print the result: `values` as JSON, or `text`."""
        log(self.shown(text))
        if self.as_json:
            print_result(self.shown(json.dumps(values, indent=2)))
        elif not self.quiet:
            print_result(text)

    def detail(self, text: str) -> None:
        """Print one line about how a result was made, if the user wants to know."""
        if self.verbose:
            self.line(text)
        else:
            log(self.shown(text))

    def line(self, text: str) -> None:
        """Print one line of a result; with JSON, print nothing."""
        log(self.shown(text))
        if not self.as_json and not self.quiet:
            if self.stdout_is_taken:
                print_message(self.shown(text))
            else:
                print_result(self.shown(text))

    def note(self, text: str) -> None:
        """Print one note on stderr."""
        self._log_note(text)
        if not self.quiet:
            print_message(f"note: {self.shown(text)}")

    def image(self, path: Path, number: int, images: int) -> None:
        """Print a heading on stderr before image `number` of `images`; used where there are no progress bars."""
        log(f"image {number} of {images}: {self.shown(str(path))}")
        if not self.quiet:
            print_message(f"image {number} of {images}: {self.shown(str(path))}")

    def error(self, text: str) -> None:
        """Print one error on stderr."""
        log(f"error: {self.shown(text)}")
        print_message(f"error: {self.shown(text)}")

    @contextmanager
    def progress(self) -> Iterator[Observer]:
        """Yield an observer for a job: with progress bars on a terminal, else with headings and notes alone."""
        from self2self.cli.estimate import Estimate
        from self2self.jobs import Observer

        if self.quiet or not sys.stderr.isatty():
            yield Estimate(self.note).watching(Observer(note=self.note, image_started=self.image))
            return
        with Bars() as bars:

            def note(text: str) -> None:
                self._log_note(text)
                bars.note(self.shown(text))

            observer = Observer(
                note=note,
                fit_step=bars.fit_step,
                passes_started=bars.passes_started,
                pass_run=bars.pass_run,
                benchmark_step=bars.benchmark_step,
                image_started=bars.image_started,
                page_started=bars.page_started,
                build_step=bars.build_step,
            )
            yield Estimate(note).watching(observer)

    def _log_note(self, text: str) -> None:
        log(f"note: {self.shown(text)}")


def standard_error_text(grey_levels: float) -> str:
    """Format a standard error; it is unknown (NaN) after a single pass."""
    return "unknown" if math.isnan(grey_levels) else f"{grey_levels:.2f} grey levels"


class Bars:
    """Progress bars on a terminal: one for each phase of a job.

    A narrow terminal omits loss and speed; an even narrower one omits the remaining time, too.
    """

    def __init__(self) -> None:
        from rich.console import Console as Terminal
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        self._title = ""
        self._terminal = Terminal(stderr=True)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}"),
            BarColumn(),
            # Without no_wrap, a narrow terminal would shorten the count before the text.
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
        ]
        spare = self._terminal.width - LINE_WIDTH_WITHOUT_NAME - MINIMUM_NAME_WIDTH
        if spare >= 0:
            columns.append(TextColumn("{task.fields[detail]}"))
        if spare >= -DETAIL_WIDTH:
            columns += [TimeRemainingColumn(compact=True), TextColumn("left")]
        self._progress = Progress(*columns, console=self._terminal, speed_estimate_period=SPEED_SECONDS)
        self._tasks: dict[str, Any] = {}
        self._megapixels = 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Print a note above the bars; the terminal breaks it between words."""
        self._terminal.print(f"note: {text}", highlight=False, markup=False)

    def fit_step(self, report: FitReport) -> None:
        """Move the bar of the fit."""
        speed = (report.step - self._first_step(report)) / max(report.seconds, 1e-9)
        detail = f"{speed:.1f} steps/s" if report.loss is None else f"loss {report.loss:.4g}  {speed:.1f} steps/s"
        self._move("fitting", report.step, report.steps, detail)

    def _first_step(self, report: FitReport) -> int:
        first: int = self._tasks.setdefault("first step", report.step - 1)
        return first

    def passes_started(self, height: int, width: int) -> None:
        """Remember the size of the image whose passes begin."""
        self._megapixels = height * width / 1e6

    def pass_run(self, moments: PassSums, passes: int) -> None:
        """Move the bar of the ensemble; for an image in tiles, it tells the pixels of all of them."""
        from self2self.runtime.ensemble.moments import passes_of_image

        error = moments.standard_error()
        detail = "" if math.isnan(error) else f"± {standard_error_text(error)}"
        done, total = passes_of_image(moments, passes)
        if moments.tiles > 1:
            detail = f"{done / total * self._megapixels:.1f} of {self._megapixels:.1f} megapixels"
        self._move("passes", done, total, detail)

    def benchmark_step(self, what: str, done: int, total: int) -> None:
        """Move the bar of a benchmark."""
        self._move("measuring", done, total, what)

    def image_started(self, path: Path, number: int, images: int) -> None:
        """Start anew with an image, whose number and name the bars then show."""
        from rich.markup import escape

        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._tasks.clear()
        longest = min(32, max(MINIMUM_NAME_WIDTH, self._terminal.width - LINE_WIDTH_WITHOUT_NAME))
        name = path.name if len(path.name) <= longest else f"{path.name[: longest - 1]}…"
        # Without escape, rich would read the brackets of "[a].png" as markup.
        self._title = escape(f"{number}/{images} {name}")

    def page_started(self, page: int, pages: int) -> None:
        """Move the bar of a stack, and start those of its next page."""
        for name in ("fitting", "passes"):
            if name in self._tasks:
                self._progress.reset(self._tasks[name])
        self._tasks.pop("first step", None)
        self._move("pages", page - 1, pages, f"page {page} of {pages}")

    def build_step(self, phase: str, done: int, total: int) -> None:
        """Move the bar of a phase of TensorRT's build."""
        self._move(phase.lower(), done, total, "")

    def _move(self, name: str, done: int, total: int, detail: str) -> None:
        if name not in self._tasks:
            description = f"{self._title} {name}".strip()
            self._tasks[name] = self._progress.add_task(description, total=total, detail="")
        self._progress.update(self._tasks[name], completed=done, total=total, detail=detail)


def exits_with_code(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command: each of its errors becomes one line on stderr and an exit code.

    This is the only place that does so. An exception that is not a `Self2SelfError` is a bug and keeps its traceback.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        console = Console(as_json=bool(kwargs.get("as_json")), quiet=bool(kwargs.get("quiet")))
        path = cast("Path | None", kwargs.get("log"))
        raise_on_interrupt()
        # The inner block reports the errors of the command to the log, too, the outer one those of the log itself.
        with speaking(as_option), _reported_errors(console), logging_to(path), _reported_errors(console):
            return command(*args, **kwargs)

    return wrapper


@contextmanager
def _reported_errors(console: Console) -> Iterator[None]:
    """Turn the errors of the block into one line and the end of the command."""
    try:
        with pytorch_memory():
            yield
    except ResourceError as error:
        fail(console, _with_limit(str(error)), error.exit_code)
    except Self2SelfError as error:
        fail(console, str(error), error.exit_code)
    except KeyboardInterrupt:
        fail(console, "interrupted; what was finished is kept.", 130)
    except MemoryError:
        message = "out of memory. Close other programs or use a smaller image."
        fail(console, _with_limit(message), ResourceError.exit_code)
    except BrokenPipeError:
        # Stdout has no reader any more.
        drop_stdout()
        raise typer.Exit(1) from None
    except FileNotFoundError as error:
        folder = _vanished_folder(error)
        # A missing file in a folder that is there is a bug.
        if folder is None:
            raise
        fail(console, f"{folder} has vanished during the command. Type it again in a folder that stays.", 2)


_spare = [bytearray(8 * 2**20)]
"""Address space that is given up where memory has run out, so that there is some to say why. It is never touched."""


def _with_limit(message: str) -> str:
    """The message about a lack of memory or space, with the limit of this process where that is what it lacks."""
    from self2self.machine.system import memory_limit_text

    limit = ""
    _spare.clear()
    # Where memory has run out, this may fail, too.
    with contextlib.suppress(Exception):
        limit = memory_limit_text() if message.startswith("out of memory") else ""
    return f"{message} This process may take {limit}; raise that." if limit else message


def _vanished_folder(error: FileNotFoundError) -> str | None:
    """The folder that someone has removed while the command worked in it; None if that is not the reason."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the current folder"
    if not isinstance(error.filename, str) or (parent := Path(error.filename).parent).is_dir():
        return None
    return str(parent)


def fail(console: Console, message: str, exit_code: int) -> NoReturn:
    """Print the error, also as JSON if the command does, and end the command.

    Raises:
        typer.Exit: always.
    """
    line = " ".join(message.split())
    console.error(line)
    if console.as_json and exit_code != StdoutError.exit_code:
        with contextlib.suppress(StdoutError):
            print_result(json.dumps({"error": {"message": line, "exit_code": exit_code}}, indent=2))
    raise typer.Exit(exit_code) from None
