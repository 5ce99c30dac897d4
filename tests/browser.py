"""Opens generated pages in a real browser: Debian's chromium, without a window and without the network."""

from __future__ import annotations

import html
import shutil
import subprocess
import tempfile
from pathlib import Path

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


def _chromium(path: Path | str, width: int, budget: int, action: str, height: int = 2000) -> str:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed; install it: apt install chromium")
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
