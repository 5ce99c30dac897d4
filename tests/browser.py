"""Opens generated pages in a real browser: Debian's chromium, without a window and without the network."""

from __future__ import annotations

import base64
import html
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


VIRTUAL_TIME_BUDGETS = (4000, 20_000, 60_000)
"""Milliseconds of the browser's virtual time for a page's scripts; only a busy machine needs more than the first."""

MINIMUM_WINDOW_WIDTH = 500
"""Width in pixels of the narrowest window of chromium."""
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe style="border:0;width:{width}px;height:2000px" srcdoc="{page}"
onload="setTimeout(() => document.documentElement.replaceWith(
  this.contentDocument.documentElement.cloneNode(true)), {delay})"></iframe>"""
"""Lays `page` out in a narrower frame; after `delay` milliseconds, the resulting document of the frame replaces the
whole document."""


def dump_dom(path: Path | str, width: int = 1200, until: str = "") -> str:
    """The document of a page for a width in pixels, after its scripts ran and wrote the text `until`.

    The page is a file or has a loopback address; in a window narrower than chromium's it is a file.
    """
    text = ""
    for budget in VIRTUAL_TIME_BUDGETS:
        if isinstance(path, str) or width >= MINIMUM_WINDOW_WIDTH:
            text = _chromium(path, width, budget, "--dump-dom")
        else:
            text = _narrow_dom(path, width, budget)
        if until in text:
            break
    return text


def _narrow_dom(path: Path, width: int, budget: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        framed = Path(folder) / "framed.html"
        page = html.escape(path.read_text(encoding="utf-8"))
        framed.write_text(FRAME.format(width=width, page=page, delay=budget * 3 // 8), "utf-8")
        return _chromium(framed, MINIMUM_WINDOW_WIDTH, budget, "--dump-dom")


def screenshot(path: Path, out: Path, width: int = 1200, height: int = 2000) -> Path:
    """Write a PNG of the page at `path` in a window of that size to `out`."""
    _chromium(path, width, VIRTUAL_TIME_BUDGETS[0], f"--screenshot={out}", height)
    return out


def _program() -> str:
    """The browser; without one the test is skipped."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed; install it: apt install chromium")
    return program


def _chromium(path: Path | str, width: int, budget: int, action: str, height: int = 2000) -> str:
    program = _program()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [
                program,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--virtual-time-budget={budget}",
                f"--window-size={width},{height}",
                action,
                path if isinstance(path, str) else path.resolve().as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    return done.stdout


class Tab:
    """A tab of a browser that is steered while it shows a page (Chrome DevTools Protocol), in real time.

    Attributes:
        requests: addresses of all that the tab has asked for.
        errors: what went wrong in the page's scripts.
    """

    def __init__(self, socket: Any, session: str) -> None:
        self._socket = socket
        self._session = session
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        self.errors: list[str] = []

    def send(self, method: str, **parameters: Any) -> Any:
        """The answer of the browser to a command of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _note(self, method: str, values: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(values["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(values["exceptionDetails"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(json.dumps(values["entry"]))

    def open(self, address: str) -> None:
        """Show a page."""
        self.send("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60) -> Any:
        """The value of an expression in the page, as soon as it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.1)
        raise AssertionError(f"{script} is still false; the page says: {self.run('document.body.innerText')}")

    def choose_files(self, element: str, files: list[Path]) -> None:
        """Choose files in the file input that the expression `element` gives."""
        found = self.send("Runtime.evaluate", expression=element)["result"]
        self.send("DOM.setFileInputFiles", objectId=found["objectId"], files=[str(file) for file in files])

    def screenshot(self, out: Path) -> Path:
        """Write a PNG of what the window shows to `out`."""
        out.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
        return out


@contextmanager
def steered_tab(downloads: Path, width: int = 1280, height: int = 800) -> Iterator[Tab]:
    """A tab in a window of that size, whose downloads go to a folder."""
    client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed: pip install '.[gui]'")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "--remote-debugging-port=0"]
        process = subprocess.Popen([_program(), *flags, "about:blank"], stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            lines = (line.strip() for line in process.stderr)
            address = next(line.split()[-1] for line in lines if line.startswith("DevTools listening on"))
            with client.connect(address, max_size=None) as socket:
                browser = Tab(socket, "")
                target = browser.send("Target.createTarget", url="about:blank")["targetId"]
                session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
                browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
                tab = Tab(socket, session)
                for domain in ("Page", "Network", "Runtime", "DOM", "Log"):
                    tab.send(f"{domain}.enable")
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                tab.send("Emulation.setDeviceMetricsOverride", **size)
                yield tab
        finally:
            process.kill()
            process.communicate()
