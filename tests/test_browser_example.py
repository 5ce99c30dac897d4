"""The example page runs a plain model in a real browser, with onnxruntime-web.

It needs the folder ``dist`` of the npm package: ``npm pack onnxruntime-web``, unpack it, and set ONNXRUNTIME_WEB to it.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from self2self.export.plain import export_plain, finished_by_torch
from tests.browser import dump_dom
from tests.conftest import Fitted
from tests.export.test_dtmodel import plain_of

PAGE = Path(__file__).parent.parent / "examples" / "browser.html"
DENOISE_AT_ONCE = """<script>
denoise("noisy.png").then(
  (pixels) => (output.textContent = JSON.stringify(Array.from(pixels.data))),
  (error) => (output.textContent = JSON.stringify(String(error))))
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its address."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_the_page_computes_what_pytorch_computes(make_fitted: Callable[..., Fitted], served: tuple[Path, str]) -> None:
    package = os.environ.get("ONNXRUNTIME_WEB")
    if package is None:
        pytest.skip("needs onnxruntime-web: npm pack onnxruntime-web, and ONNXRUNTIME_WEB=package/dist")
    folder, address = served
    shutil.copytree(package, folder / "dist")
    plain = plain_of(make_fitted(3))
    export_plain(plain.network, plain.contract, folder / "model.plain.onnx")
    noisy = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)
    Image.fromarray(noisy).save(folder / "noisy.png")
    (folder / "index.html").write_text(PAGE.read_text("utf-8").replace("</html>", DENOISE_AT_ONCE + "</html>"), "utf-8")

    text = dump_dom(f"{address}/index.html", until="<output>[")
    shown = json.loads(re.search(r"<output>(.*?)</output>", text, re.DOTALL)[1])  # type: ignore[index]
    expected = 255 * finished_by_torch(plain.network, plain.contract, noisy.transpose(2, 0, 1)[None] / np.float32(255))
    pixels = np.array(shown).reshape(45, 70, 4)
    assert np.abs(pixels[..., :3] - expected[0].transpose(1, 2, 0)).max() <= 0.51
    assert (pixels[..., 3] == 255).all()
