"""Make docs/napari.webp: the plugin in napari, after a preview on the right half of its sample.

    make napari-test
    xvfb-run -a .venv-napari/bin/python scripts/napari_picture.py

It needs OpenGL, which Qt's platform offscreen lacks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 1180, 720
SECONDS_TO_DRAW = 3
WEBP_QUALITY = 82


def main() -> None:
    """Open napari, run a preview, and write the picture of the window."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "napari.webp", help="the picture")
    arguments = parser.parse_args()

    from PIL import Image

    from self2self.napari_plugin.settings import Settings

    module = "self2self.napari_plugin.widget"
    # Whoever runs this keeps the settings of the last run.
    with patch(f"{module}.load_settings", Settings), patch(f"{module}.save_settings"):
        pixels = window_with_preview()
    Image.fromarray(pixels[..., :3]).save(arguments.output, quality=WEBP_QUALITY, method=6)
    print(arguments.output, arguments.output.stat().st_size, "bytes")


def window_with_preview() -> Any:
    """The window's pixels, (H, W, 4) uint8."""
    import napari
    from qtpy.QtWidgets import QApplication

    def draw(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.01)

    viewer = napari.Viewer()
    viewer.window._qt_window.resize(WIDTH, HEIGHT)
    viewer.open_sample("self2self", "noisy_photograph")
    _, widget = viewer.window.add_plugin_dock_widget("self2self", "Denoise")
    draw(SECONDS_TO_DRAW)
    viewer.reset_view()
    widget.draw_button.click()
    viewer.layers.selection.active.add_rectangles([[-0.5, 127.5], [255.5, 255.5]])
    widget.preview_button.click()
    while widget._run is not None:
        draw(0.1)
    viewer.layers["preview rectangle"].visible = False
    draw(SECONDS_TO_DRAW)
    pixels = viewer.screenshot(canvas_only=False, flash=False)
    viewer.close()
    return pixels


if __name__ == "__main__":
    main()
