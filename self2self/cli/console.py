"""What the user sees: results on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

from self2self.errors import ResourceError, Self2SelfError, pytorch_memory

if TYPE_CHECKING:
    from pathlib import Path

    from self2self.jobs import Observer
    from self2self.runtime.ensemble.moments import Moments
    from self2self.train.session import FitReport

BESIDE_NAME = 66
"""Columns of a line with a bar without the file's name."""

SHORTEST_NAME = 12
"""Columns that a file's name gets on the narrowest terminal."""

DETAIL = 26
"""Columns of loss and speed."""

WHITES, WHOLE = (255.0, 65535.0), 0.9
"""Values that stand for white, and the share of the way there from 0 that an image with such values uses."""

P = ParamSpec("P")
R = TypeVar("R")


class Console:
    """Where a command writes.

    Args:
        as_json: print one JSON document on stdout and no text.
        quiet: print neither results nor progress nor notes; errors are still told.
    """

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def result(self, text: str, values: Any) -> None:
        """Print the outcome: `values` as JSON, or `text`."""
        if self.as_json:
            print(json.dumps(values, indent=2))  # noqa: T201
        elif not self.quiet:
            print(text)  # noqa: T201

    def line(self, text: str) -> None:
        """One line of a result; JSON has its own."""
        if not self.as_json and not self.quiet:
            # At once: in a log, a result would otherwise stand below the notes about the next images.
            print(text, flush=True)  # noqa: T201

    def note(self, text: str) -> None:
        """One line on stderr that the user should know."""
        if not self.quiet:
            print(f"note: {text}", file=sys.stderr)  # noqa: T201

    def image(self, path: Path, number: int, images: int) -> None:
        """A heading on stderr, where there are no bars: image `number` of `images` comes now."""
        if not self.quiet:
            print(f"image {number} of {images}: {path}", file=sys.stderr)  # noqa: T201

    def error(self, text: str) -> None:
        """One line on stderr."""
        print(f"error: {text}", file=sys.stderr)  # noqa: T201

    @contextmanager
    def progress(self) -> Iterator[Observer]:
        """An observer that draws progress bars, where stderr is a terminal."""
        from self2self.jobs import Observer

        if self.quiet or not sys.stderr.isatty():
            yield Observer(note=self.note, image_started=self.image)
            return
        with Bars() as bars:
            yield Observer(
                note=bars.note,
                fit_step=bars.fit_step,
                pass_run=bars.pass_run,
                benchmark_step=bars.benchmark_step,
                image_started=bars.image_started,
                page_started=bars.page_started,
                build_step=bars.build_step,
            )


def range_text(values: tuple[float, float] | None) -> str:
    """What 255 grey levels are, for people; nothing where they are about what the file has."""
    if values is None:
        return ""
    low, high = values
    if low == high or any(low >= 0 and high <= white and high - low >= WHOLE * white for white in WHITES):
        return ""
    return f"; 255 grey levels are from {low:g} to {high:g}"


def standard_error_text(grey_levels: float) -> str:
    """A standard error for people; one pass alone tells nothing of its own error."""
    return "unknown" if math.isnan(grey_levels) else f"{grey_levels:.2f} grey levels"


class Bars:
    """One progress bar for the fit and one for the passes; a narrow terminal shows no loss and speed, or no time."""

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
            # By itself, it would give way before the text beside it.
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
        ]
        spare = self._terminal.width - BESIDE_NAME - SHORTEST_NAME
        if spare >= 0:
            columns.append(TextColumn("{task.fields[detail]}"))
        if spare >= -DETAIL:
            columns += [TimeRemainingColumn(compact=True), TextColumn("left")]
        self._progress = Progress(*columns, console=self._terminal)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """A line above the bars, which a narrow terminal shows as several, broken between words."""
        self._terminal.print(f"note: {text}", highlight=False, markup=False)

    def fit_step(self, report: FitReport) -> None:
        """Move the bar of the fit."""
        speed = (report.step - self._first_step(report)) / max(report.seconds, 1e-9)
        detail = f"{speed:.1f} steps/s" if report.loss is None else f"loss {report.loss:.4g}  {speed:.1f} steps/s"
        self._move("fitting", report.step, report.steps, detail)

    def _first_step(self, report: FitReport) -> int:
        first: int = self._tasks.setdefault("first step", report.step - 1)
        return first

    def pass_run(self, moments: Moments, passes: int) -> None:
        """Move the bar of the ensemble."""
        detail = f"± {standard_error_text(moments.standard_error())}"
        if moments.tiles > 1:
            detail = f"tile {moments.tile + 1}/{moments.tiles}"
        self._move("passes", moments.tile * passes + moments.count, moments.tiles * passes, detail)

    def benchmark_step(self, what: str, done: int, total: int) -> None:
        """Move the bar of a benchmark."""
        self._move("measuring", done, total, what)

    def image_started(self, path: Path, number: int, images: int) -> None:
        """Start anew with an image, whose number and name the bars then show."""
        from rich.markup import escape

        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._tasks.clear()
        longest = min(32, max(SHORTEST_NAME, self._terminal.width - BESIDE_NAME))
        name = path.name if len(path.name) <= longest else f"{path.name[: longest - 1]}…"
        # A name is no markup: "[a].png" would otherwise lose its brackets.
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


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of a command into one line and an exit code; this is the only place that does.

    Anything outside the tree of `errors` is a bug and keeps its traceback.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        console = Console(as_json=bool(kwargs.get("as_json")), quiet=bool(kwargs.get("quiet")))
        try:
            with pytorch_memory():
                return command(*args, **kwargs)
        except Self2SelfError as error:
            fail(console, str(error), error.exit_code)
        except KeyboardInterrupt:
            fail(console, "interrupted; what was finished is kept.", 130)
        except MemoryError:
            fail(console, "out of memory. Close other programs or use a smaller image.", ResourceError.exit_code)
        except BrokenPipeError:
            # The reader of our output has gone; Python would complain again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None

    return wrapper


def fail(console: Console, message: str, exit_code: int) -> NoReturn:
    """Tell the error and end the command.

    Raises:
        typer.Exit: always.
    """
    line = " ".join(message.split())
    console.error(line)
    if console.as_json:
        print(json.dumps({"error": {"message": line, "exit_code": exit_code}}, indent=2))  # noqa: T201
    raise typer.Exit(exit_code) from None
