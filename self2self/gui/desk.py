"""The images of the page, which are denoised one after the other in a thread of their own.

All files are in a folder for each image: the image as it was dropped, its fit, its result and the pictures of both.
Nothing outside is read or written.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import traceback
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from self2self.errors import InterruptedRun, Self2SelfError, as_controls, first_line, pytorch_memory, speaking
from self2self.gui.pictures import middle, orientation_of, pair, png
from self2self.machine.files import remove_folder

if TYPE_CHECKING:
    from self2self.runtime.ensemble.moments import PassSums
    from self2self.train.session import FitReport

MAX_NAME_BYTES = 120
"""Longest name of a file; the results have some letters more, and file systems take 255 bytes."""

CONTROLS = {"--strength": "Strength", "--uncertainty": "the map of the uncertainty"}
"""Labels of the controls that stand for options."""

CLOSING_SECONDS = 20.0
"""Longest time to wait for the end of a step when the page ends."""


class State(StrEnum):
    """What becomes of an image."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Settings:
    """What the page's switches say.

    Attributes:
        strength: as `FitOptions.strength`.
        uncertainty: whether to write a map of standard deviations, too.
    """

    strength: float = 1.0
    uncertainty: bool = False


@dataclass(eq=False)
class Item:
    """An image on the page.

    Attributes:
        source: its file, of `Desk.new_source`.
        settings: with which it is denoised.
        state: what becomes of it.
        text: one line about that.
        progress: done share of the present phase, from 0 to 1.
        notes: lines that the user should know.
        shown: keys of the pictures (`Desk.files`), noisy and, as soon as there is one, denoised; None before the first.
        shows_middle: whether the pictures are the middle of the image.
        pages: number of pages of the file; 0 before it is known.
        downloads: keys of the files that can be saved, by their names.
    """

    source: Path
    settings: Settings
    state: State = State.WAITING
    text: str = "waiting"
    progress: float = 0.0
    notes: list[str] = field(default_factory=list)
    shown: tuple[str, ...] | None = None
    shows_middle: bool = False
    pages: int = 0
    page: int = 0
    downloads: dict[str, str] = field(default_factory=dict)
    orientation: int = 1
    result: Path | None = None
    cancel: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.source.name

    @property
    def folder(self) -> Path:
        """The folder of this image: its files, its run and its pictures, which are apart so that no names clash."""
        return self.source.parent.parent

    @property
    def is_busy(self) -> bool:
        """Whether it waits or is being denoised."""
        return self.state in (State.WAITING, State.RUNNING)


class Desk:
    """All images of the page, and the thread that denoises them.

    Args:
        folder: for all files; it exists.

    Attributes:
        items: the images, in the order in which they came.
        settings: for the images that come next.
        files: what a browser may fetch: path by key. Keys are random, and nothing else is served.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items: list[Item] = []
        self.settings = Settings()
        self.files: dict[str, Path] = {}
        self._queue: Queue[Item | None] = Queue()
        self._thread = threading.Thread(target=self._work, name="denoise", daemon=True)
        self._thread.start()

    def new_source(self, name: str) -> Path:
        """A path in a new folder for an image that the browser calls `name`; of a path, the last part counts."""
        folder = self.folder / secrets.token_hex(8) / "files"
        folder.mkdir(parents=True)
        return folder / safe_name(name)

    def add(self, source: Path) -> Item:
        """Denoise the file of `new_source`, which is complete now, after those before it."""
        item = Item(source, self.settings)
        self.items.append(item)
        self.start(item)
        return item

    def start(self, item: Item) -> None:
        """Denoise `item`, perhaps again, with the present settings."""
        item.settings = Settings(self.settings.strength, self.settings.uncertainty)
        item.state, item.text, item.progress = State.WAITING, "waiting", 0.0
        item.cancel = threading.Event()
        self._queue.put(item)

    def cancel(self, item: Item) -> None:
        """Stop `item` after the current step."""
        item.cancel.set()
        if item.state is State.WAITING:
            item.state, item.text = State.CANCELLED, "cancelled"

    def remove(self, item: Item) -> None:
        """Forget `item`, which is not being denoised, with all its files."""
        if item.is_busy:
            return
        self.items.remove(item)
        for key in [key for key, path in self.files.items() if item.folder in path.parents]:
            del self.files[key]
        remove_folder(item.folder)

    def close(self) -> None:
        """Stop all work, and wait for the end of the current step, but not for ever."""
        for item in self.items:
            self.cancel(item)
        self._queue.put(None)
        self._thread.join(CLOSING_SECONDS)

    def show_page(self, item: Item, page: int) -> None:
        """Show another page of a denoised stack; `page` counts from 0. This takes as long as reading it."""
        if item.result is not None and 0 <= page < item.pages:
            item.page = page
            self._show(item, pair(item.source, item.result, page, item.orientation), is_middle=False)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if item.state is State.WAITING:
                self._denoise_or_tell(item)

    def _denoise_or_tell(self, item: Item) -> None:
        """Denoise `item`; an error becomes its text."""
        item.state, item.text = State.RUNNING, "reading the image"
        item.notes.clear()
        try:
            with speaking(as_controls(CONTROLS)), pytorch_memory():
                self._denoise(item)
        except InterruptedRun:
            item.state, item.text = State.CANCELLED, "cancelled"
        except Self2SelfError as error:
            item.state, item.text = State.FAILED, self._without_folder(item, " ".join(str(error).split()))
        except MemoryError:
            item.state, item.text = State.FAILED, "out of memory. Close other programs or use a smaller image."
        except Exception as error:
            # A bug: the terminal has the rest.
            traceback.print_exc()
            item.state, item.text = State.FAILED, f"failed unexpectedly ({type(error).__name__}: {first_line(error)})"

    def _denoise(self, item: Item) -> None:
        item.orientation = orientation_of(item.source)
        if item.shown is None:
            self._show(item, [middle(item.source, item.orientation)], is_middle=True)
        item.text = "measuring the noise"
        # They load PyTorch, which takes seconds; the page and the noisy image are there sooner.
        from self2self.jobs import FitOptions, Observer, OutputOptions, denoise_job
        from self2self.jobs.results import DenoiseResult, StackResult

        deviations = item.source.with_name(f"{item.source.stem}.std.tif") if item.settings.uncertainty else None
        observer = Observer(
            note=lambda text: self._note(item, text),
            fit_step=lambda report: self._fit_step(item, report),
            pass_run=lambda sums, passes: self._pass_run(item, sums, passes),
            page_started=lambda page, pages: self._page_started(item, page, pages),
            preview=lambda noisy, now: self._preview(item, noisy, now),
            cancelled=item.cancel.is_set,
        )
        result = denoise_job(
            item.source,
            # The fit stays, so that another strength takes seconds.
            FitOptions(strength=item.settings.strength, run=item.folder / "run"),
            outputs=OutputOptions(uncertainty=deviations, force=True),
            observer=observer,
        )
        assert isinstance(result, DenoiseResult | StackResult)  # noqa: S101 - with force, no earlier result is taken
        item.text = "drawing the pictures"
        item.pages = len(result.pages) if isinstance(result, StackResult) else 1
        item.result = result.output
        item.page = min(item.page, item.pages - 1)
        summary = result.summary
        del result
        self._show(item, pair(item.source, item.result, item.page, item.orientation), is_middle=False)
        written = [item.result, *([] if deviations is None else [deviations])]
        for key in item.downloads.values():
            del self.files[key]
        item.downloads = {path.name: self._key_of(path) for path in written}
        item.text, item.progress, item.state = summary, 1.0, State.DONE

    def _note(self, item: Item, text: str) -> None:
        text = self._without_folder(item, text).removeprefix(f"{item.name}: ")
        # That the fit of this page is used again is no news.
        if text not in item.notes and not text.startswith(("using the finished fit", "continuing the interrupted")):
            item.notes.append(text)

    def _fit_step(self, item: Item, report: FitReport) -> None:
        left = report.seconds * (report.steps - report.step) / max(1, report.step)
        item.progress = report.step / report.steps
        item.text = f"learning the image, step {report.step} of {report.steps}; {_time_left(left)}"

    def _pass_run(self, item: Item, sums: PassSums, passes: int) -> None:
        from self2self.runtime.ensemble.moments import passes_of_image

        done, total = passes_of_image(sums, passes)
        item.progress = done / max(done, total)
        item.text = f"{self._page_text(item)}denoising, {100 * item.progress:.0f} %"

    def _page_started(self, item: Item, page: int, pages: int) -> None:
        item.page, item.pages = page - 1, pages
        item.progress = (page - 1) / pages
        item.text = f"{self._page_text(item)}denoising"

    def _page_text(self, item: Item) -> str:
        return f"page {item.page + 1} of {item.pages}: " if item.pages > 1 else ""

    def _preview(self, item: Item, noisy: NDArray[np.float32], now: NDArray[np.float32]) -> None:
        self._show(item, [png(noisy, item.orientation), png(now, item.orientation)], is_middle=True)

    def _show(self, item: Item, pictures: list[bytes], *, is_middle: bool) -> None:
        """Let the browser fetch one or two pictures in place of those before."""
        keys = []
        for content in pictures:
            path = item.folder / f"{secrets.token_hex(8)}.png"
            path.write_bytes(content)
            keys.append(self._key_of(path))
        item.shows_middle, item.shown, before = is_middle, tuple(keys), item.shown
        # A browser may be about to fetch those before; it then asks for the new ones.
        for key in before or ():
            self.files.pop(key).unlink()

    def _key_of(self, path: Path) -> str:
        key = secrets.token_urlsafe(16)
        self.files[key] = path
        return key

    def _without_folder(self, item: Item, text: str) -> str:
        """The text without the folder that nobody needs to see."""
        return text.replace(f"{item.source.parent}{os.sep}", "")


def safe_name(name: str) -> str:
    """A name for a file from what a browser calls it: its last part, without what file systems do not take."""
    last = re.split(r"[/\\]", name)[-1]
    kept = Path("".join(letter for letter in last if letter.isprintable() and letter not in '<>:"|?*').strip(" ."))
    stem = kept.stem.encode(errors="ignore")[:MAX_NAME_BYTES].decode(errors="ignore")
    return f"{stem or 'image'}{kept.suffix[:16]}"


def _time_left(seconds: float) -> str:
    if seconds >= 90:
        return f"about {seconds / 60:.0f} minutes left"
    return f"{max(1, round(seconds))} s left"
