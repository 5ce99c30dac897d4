"""What stands on the page: the drop zone, two switches, a row for each image, and the comparison of the chosen one.

The page of each browser window asks four times a second what has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from self2self.gui.desk import Desk, Item, State
from self2self.jobs.fit_config import LARGEST_STRENGTH

if TYPE_CHECKING:
    from nicegui.element import Element

REFRESH_SECONDS = 0.25
ENDED = (
    'document.body.innerHTML = \'<p style="font: 1.2rem system-ui; padding: 3rem">'
    "self2self has ended. You can close this window.</p>'"
)
STYLE = """
body { background: #f4f5f7; } .body--dark { background: #16181c; }
.nicegui-content { padding: 0; }
.frame { display: grid; grid-template-columns: 340px minmax(0, 1fr); gap: 16px; padding: 16px; width: 100%;
  box-sizing: border-box; }
.side, .main { display: flex; flex-direction: column; gap: 12px; min-width: 0; }
.box { background: white; border-radius: 8px; padding: 12px 16px; box-shadow: 0 1px 3px #0003; }
.body--dark .box { background: #23262c; }
.title { font-size: 1.25rem; font-weight: 600; } .small { font-size: 0.85rem; opacity: 0.8; }
.line { display: flex; align-items: center; gap: 8px; width: 100%; }
.grow { flex: 1; min-width: 0; } .cut { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.item { cursor: pointer; border: 2px solid transparent; } .item.chosen { border-color: var(--q-primary); }
.failed { color: #c0281c; } .body--dark .failed { color: #ff8a80; }
.items { display: flex; flex-direction: column; gap: 8px; max-height: 50vh; overflow: auto; padding: 2px; }
@media (max-width: 800px) { .frame { grid-template-columns: minmax(0, 1fr); } .items { max-height: none; } }
"""


def build(desk: Desk, stop: Callable[[], None]) -> None:
    """Define the page.

    Args:
        desk: the images.
        stop: ends the server.
    """
    from nicegui import ui

    @ui.page("/")
    def page() -> None:
        ui.add_css(STYLE)
        ui.add_head_html('<script type="module" src="/page.js"></script>')
        window = _Window(desk, stop)
        ui.timer(REFRESH_SECONDS, window.refresh)


class _Window:
    """The page in one window of a browser."""

    def __init__(self, desk: Desk, stop: Callable[[], None]) -> None:
        self._desk = desk
        self._stop = stop
        self._rows: dict[Item, _Row] = {}
        self._chosen: Item | None = None
        with _box("frame"):
            with _box("side"):
                self._add_head()
                self._add_settings()
                self._list = _box("items")
            with _box("main"):
                self._main = _Comparison(desk)

    def refresh(self) -> None:
        """Show what has changed."""
        items = list(self._desk.items)
        for item in [item for item in self._rows if item not in items]:
            self._rows.pop(item).element.delete()
        for item in items:
            if item not in self._rows:
                with self._list:
                    self._rows[item] = _Row(self._desk, item, self._choose)
                # What has been dropped last is what somebody wants to see, unless another is being looked at.
                if self._chosen is None or not self._chosen.is_busy:
                    self._choose(item)
        if self._chosen not in items:
            self._choose(items[-1] if items else None)
        for item, row in self._rows.items():
            row.refresh(item is self._chosen)
        self._main.refresh(self._chosen)

    def _choose(self, item: Item | None) -> None:
        self._chosen = item

    def _add_head(self) -> None:
        from nicegui import ui

        with _box("box"):
            with _box("line"):
                ui.label("self2self").classes("title grow")
                ui.button("Quit", on_click=self._ask_to_quit).props("flat dense no-caps")
            ui.label("Removes the noise from images. They stay on this computer.").classes("small")
        ui.element("s2s-drop")

    def _add_settings(self) -> None:
        from nicegui import ui

        settings = self._desk.settings
        with _box("box"):
            with _box("line"):
                ui.label("Strength").classes("grow")
                shown = ui.label(f"{settings.strength:.1f}")

            def set_strength(change: Any) -> None:
                settings.strength = change.value
                shown.set_text(f"{change.value:.1f}")

            def set_uncertainty(change: Any) -> None:
                settings.uncertainty = change.value

            slider = ui.slider(min=0, max=LARGEST_STRENGTH, step=0.1, value=settings.strength, on_change=set_strength)
            slider.props('aria-label="Strength"')
            ui.label("1 removes what was found; less keeps some grain.").classes("small")
            switch = ui.switch("Map of the uncertainty, too", value=settings.uncertainty, on_change=set_uncertainty)
            switch.tooltip("A second TIFF file: how sure each pixel is. It takes several times as long.")

    async def _ask_to_quit(self) -> None:
        from nicegui import ui

        with ui.dialog() as dialog, ui.card():
            ui.label("End self2self? Results that you have not saved are lost.")
            with _box("line"):
                ui.button("Quit", on_click=lambda: dialog.submit(True)).props("no-caps")
                ui.button("Stay", on_click=lambda: dialog.submit(False)).props("flat no-caps")
        if await dialog:
            await ui.run_javascript(ENDED)
            self._stop()


class _Row:
    """The row of an image in the list."""

    def __init__(self, desk: Desk, item: Item, choose: Callable[[Item], None]) -> None:
        from nicegui import ui

        self._item = item
        self.element = _box("box item")
        self.element.on("click", lambda: choose(item))
        with self.element:
            with _box("line"):
                ui.label(item.name).classes("grow cut").tooltip(item.name)
                self._cancel = _button("close", "Cancel", lambda: desk.cancel(item))
                self._again = _button("refresh", "Denoise again with the settings above", lambda: desk.start(item))
                self._remove = _button("delete", "Remove from the page", lambda: desk.remove(item))
            self._progress = ui.linear_progress(show_value=False).props("rounded instant-feedback")
            self._text = ui.label().classes("small")

    def refresh(self, chosen: bool) -> None:
        """Show the state of the image."""
        item = self._item
        _set_class(self.element, "chosen", chosen)
        _set_class(self._text, "failed", item.state is State.FAILED)
        self._text.set_text(item.text)
        self._progress.set_value(item.progress)
        self._progress.set_visibility(item.is_busy)
        self._cancel.set_visibility(item.is_busy)
        self._again.set_visibility(not item.is_busy)
        self._remove.set_visibility(not item.is_busy)


class _Comparison:
    """The chosen image, noisy and denoised, with what is known of it and the files to save."""

    def __init__(self, desk: Desk) -> None:
        from nicegui import ui

        self._desk = desk
        self._item: Item | None = None
        self._links: dict[str, str] = {}
        self._view = ui.element("s2s-compare")
        with _box("box") as self._below:
            with _box("line"):
                self._caption = ui.label().classes("grow")
                self._saves = _box("line").style("width: auto")
            with _box("line") as self._pages:
                self._page_text = ui.label().style("min-width: 9em")
                self._page = ui.slider(min=1, max=1, step=1).props('aria-label="Page"').classes("grow")
                # Reading a page takes as long as a page is large, so it waits for the end of the movement.
                self._page.on("change", self._show_page)
            self._notes = ui.label().classes("small").style("white-space: pre-line")

    def refresh(self, item: Item | None) -> None:
        """Show `item`, or that there is none."""
        self._item = item
        shown = " ".join(f"/files/{key}" for key in item.shown) if item and item.shown else ""
        if self._view.props.get("pair", "") != shown:
            self._view.props["pair"] = shown
            self._view.update()
        self._below.set_visibility(item is not None)
        if item is None:
            return
        self._caption.set_text(_caption(item))
        self._notes.set_text("\n".join(item.notes))
        self._notes.set_visibility(bool(item.notes))
        self._pages.set_visibility(item.state is State.DONE and item.pages > 1)
        if item.pages > 1:
            self._page.props["max"] = item.pages
            self._page_text.set_text(f"page {item.page + 1} of {item.pages}")
        links = {} if item.is_busy else item.downloads
        if links != self._links:
            self._links = dict(links)
            self._show_links()

    def _show_links(self) -> None:
        from nicegui import ui

        self._saves.clear()
        with self._saves:
            for name, key in self._links.items():
                button = ui.button(f"Save {name}", icon="download").props(f'href="/files/{key}" no-caps')
                button.props["download"] = name

    async def _show_page(self) -> None:
        from nicegui import run

        if self._item is not None:
            await run.io_bound(self._desk.show_page, self._item, int(self._page.value) - 1)


def _caption(item: Item) -> str:
    if item.shown is None:
        return item.name
    return f"{item.name}: the middle of the image" if item.shows_middle else f"{item.name}: {item.text}"


def _box(classes: str) -> Element:
    from nicegui import ui

    return ui.element("div").classes(classes)


def _button(icon: str, tip: str, act: Callable[[], None]) -> Any:
    """A small button with an icon; a click on it does not choose the row."""
    from nicegui import ui

    button = ui.button(icon=icon).props(f'flat dense round size=sm aria-label="{tip}"').tooltip(tip)
    button.on("click.stop", act)
    return button


def _set_class(element: Element, name: str, on: bool) -> None:
    if (name in element.classes) != on:
        element.classes(add=name) if on else element.classes(remove=name)
