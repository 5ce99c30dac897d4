"""A real browser, for pages that people open: Debian's chromium, without a window and without the network."""

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
    "--virtual-time-budget=4000",
)


LEAST_WIDTH = 500
"""Chromium makes no narrower window."""
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe style="border:0;width:{width}px;height:2000px" srcdoc="{page}"
onload="setTimeout(() => document.documentElement.replaceWith(
  this.contentDocument.documentElement.cloneNode(true)), 1500)"></iframe>"""
"""Lays `page` out in a narrower frame, and later puts what became of it in the place of the whole document."""


def dump_dom(path: Path, width: int = 1200) -> str:
    """The document of the page at `path` after its scripts ran, laid out for `width` pixels."""
    if width >= LEAST_WIDTH:
        return _chromium(path, width, "--dump-dom")
    with tempfile.TemporaryDirectory() as folder:
        framed = Path(folder) / "framed.html"
        framed.write_text(FRAME.format(width=width, page=html.escape(path.read_text(encoding="utf-8"))), "utf-8")
        return _chromium(framed, LEAST_WIDTH, "--dump-dom")


def screenshot(path: Path, out: Path, width: int = 1200, height: int = 2000) -> Path:
    """A PNG of the page at `path`, as a window of that size shows it."""
    _chromium(path, width, f"--screenshot={out}", height)
    return out


def _chromium(path: Path, width: int, action: str, height: int = 2000) -> str:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed; install it: apt install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [
                program,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                action,
                path.resolve().as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    return done.stdout
