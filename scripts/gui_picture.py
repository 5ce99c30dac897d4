"""Make docs/gui.jpg: the page of `self2self gui` while it fits to the example.

    PYTHONPATH=. python scripts/gui_picture.py

It needs chromium, which the tests use, too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 1100, 580
FIRST_STEPS = 135
"""Steps of the fit, of 150, after which the picture is taken: the network has learnt nearly all."""
JPEG_QUALITY = 88
INPUT = "document.querySelector('s2s-drop').shadowRoot.querySelector('input')"
STEP = "Number((document.querySelector('.items').innerText.match(/step (\\d+)/) || [0, 0])[1])"
LAYERS = "document.querySelector('s2s-compare').shadowRoot.querySelectorAll('.layer img').length"


def main() -> None:
    """Serve the page, drop the example on it, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "gui.jpg", help="the picture")
    arguments = parser.parse_args()

    from PIL import Image

    with tempfile.TemporaryDirectory() as name:
        taken = picture_of_the_page(Path(name))
        with Image.open(taken) as file:
            file.convert("RGB").save(arguments.output, quality=JPEG_QUALITY, optimize=True)
    print(arguments.output, arguments.output.stat().st_size, "bytes")


def picture_of_the_page(folder: Path) -> Path:
    """A PNG in `folder` of the page in the middle of a fit."""
    from tests.browser import steered_tab

    photo = Path(shutil.copy(ROOT / "examples" / "noisy.png", folder / "photo.png"))
    environment = {**os.environ, "SELF2SELF_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "self2self", "gui", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:  # noqa: S603
        try:
            assert process.stdout is not None  # noqa: S101
            address = process.stdout.readline().strip()
            with steered_tab(folder, WIDTH, HEIGHT) as tab:
                tab.open(address)
                tab.wait_for("Boolean(document.querySelector('s2s-drop')?.shadowRoot)")
                tab.choose_files(INPUT, [photo])
                tab.wait_for(f"{STEP} >= {FIRST_STEPS} && {LAYERS} === 2", 1200)
                return tab.screenshot(folder / "page.png")
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
