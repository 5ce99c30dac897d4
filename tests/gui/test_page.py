"""The page in a real browser: drop images, see them improve, compare, zoom, save."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tifffile

from tests.browser import Tab, steered_tab
from tests.commands import ROOT, write_noisy

pytest.importorskip("nicegui", reason="NiceGUI is not installed: pip install '.[gui]'")
pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from functools import partial
from self2self import jobs
from self2self.__main__ import main
jobs.FitOptions = partial(jobs.FitOptions, steps=int(sys.argv.pop(1)))
main()
"""
"""The command with a fit of fewer steps."""
INPUT = "document.querySelector('s2s-drop').shadowRoot.querySelector('input')"
VIEW = "document.querySelector('s2s-compare')"
LIST = "document.querySelector('.items').innerText"


@contextmanager
def page(folder: Path, steps: int = 2) -> Iterator[tuple[Tab, subprocess.Popen[str]]]:
    """The page in a browser, and the command that serves it; downloads go to ``folder/saved``."""
    (folder / "saved").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(steps), "gui", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SELF2SELF_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with steered_tab(folder / "saved") as tab:
            tab.open(address)
            tab.wait_for("Boolean(document.querySelector('s2s-drop')?.shadowRoot)")
            yield tab, process
            assert tab.errors == []
            # Not even a font comes from elsewhere.
            hosts = {urlsplit(request).netloc for request in tab.requests if not request.startswith("data:")}
            assert hosts == {urlsplit(address).netloc}
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=120)
        assert errors == ""


def button(name: str) -> str:
    return f"document.querySelector('[aria-label=\"{name}\"]')"


def saved(folder: Path, name: str) -> Path:
    """The file that the browser has saved."""
    path = folder / "saved" / name
    end = time.monotonic() + 60
    while not path.is_file() and time.monotonic() < end:
        time.sleep(0.1)
    assert path.is_file(), list(path.parent.iterdir())
    return path


def test_an_image_is_dropped_compared_and_saved(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).poisson(900, (64, 90)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "cells.tif", pixels, description="stained", resolution=(300, 300))
    (tmp_path / "bad.png").write_bytes(b"no image")
    with page(tmp_path) as (tab, process):
        tab.choose_files(INPUT, [tmp_path / "cells.tif", tmp_path / "bad.png"])
        tab.wait_for(f"{LIST}.includes('bad.png: ')", 400)
        text = tab.run(LIST)
        assert "noise found: sigma" in text
        assert str(tmp_path) not in text

        # The first image is still the chosen one; its line is where a pointer drags it.
        tab.run("document.querySelectorAll('.item')[0].click()")
        tab.wait_for(f"{VIEW}.shadowRoot.querySelectorAll('.layer img').length === 2")
        cut = f"{VIEW}.shadowRoot.querySelectorAll('.layer')[1].style.clipPath"
        before = tab.run(cut)
        x, y, width = tab.run(f"(({{left, top, width}}) => [left, top, width])({VIEW}.getBoundingClientRect())")
        for kind, share in (("mousePressed", 0.5), ("mouseMoved", 0.25), ("mouseReleased", 0.25)):
            where = {"x": x + share * width, "y": y + 200, "button": "left", "buttons": 1, "clickCount": 1}
            tab.send("Input.dispatchMouseEvent", type=kind, **where)
        tab.wait_for(f"{cut} !== {before!r}")
        assert tab.run(f"parseFloat({cut}.split(' ').pop())") == pytest.approx(0.25 * width, abs=2)

        # The wheel makes the place under the pointer larger, and "Fit" shows all of it again.
        fitting = tab.run(f"{VIEW}.dataset.zoom")
        place = {"x": x + 10, "y": y + 10}
        tab.send("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=-300, **place)
        tab.wait_for(f"{VIEW}.dataset.zoom !== '{fitting}'")
        assert float(tab.run(f"{VIEW}.dataset.zoom")) > float(fitting)
        tab.run(f"{VIEW}.shadowRoot.querySelector('[data-zoom=fit]').click()")
        assert tab.run(f"{VIEW}.dataset.zoom") == fitting

        tab.wait_for("Boolean(document.querySelector('a[download]'))")
        tab.run("document.querySelector('a[download]').click()")
        with tifffile.TiffFile(saved(tmp_path, "cells.denoised.tif")) as file:
            denoised = file.asarray()
            assert file.pages[0].tags["ImageDescription"].value == "stained"
            assert file.pages[0].tags["XResolution"].value == (300, 1)
        assert (denoised.dtype, denoised.shape) == (pixels.dtype, pixels.shape)
        assert denoised.std() < pixels.std()

        # Quit ends the command.
        tab.run("[...document.querySelectorAll('button')].find(b => b.innerText === 'Quit').click()")
        tab.wait_for("document.querySelectorAll('.q-dialog button').length === 2")
        tab.run("document.querySelector('.q-dialog button').click()")
        tab.wait_for("document.body.innerText.includes('self2self has ended')")
        assert process.wait(timeout=60) == 0
    assert list((tmp_path / "cache" / "gui").iterdir()) == []


def test_a_fit_is_watched_cancelled_and_removed(tmp_path: Path) -> None:
    with page(tmp_path, steps=4000) as (tab, _):
        tab.choose_files(INPUT, [write_noisy(tmp_path / "x.png")])
        images = f"[...{VIEW}.shadowRoot.querySelectorAll('.layer img')].map(image => image.src).join(' ')"
        tab.wait_for(f"{images}.split(' ').length === 2", 400)
        first = tab.run(images)
        tab.wait_for(f"{images}.split(' ').length === 2 && {images} !== {first!r}", 200)
        assert "learning the image, step" in tab.run(LIST)
        tab.run(f"{button('Cancel')}.click()")
        tab.wait_for(f"{LIST}.includes('cancelled')")
        tab.run(f"{button('Remove from the page')}.click()")
        tab.wait_for("document.querySelectorAll('.item').length === 0")
        tab.wait_for(f"{VIEW}.shadowRoot.querySelectorAll('img').length === 0")
        (folder,) = (tmp_path / "cache" / "gui").iterdir()
        assert list(folder.iterdir()) == []
