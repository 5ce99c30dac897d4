"""The report page in a browser and as text, its pictures, and refused paths."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from self2self.errors import OutputError
from self2self.imaging.noise import measure_noise, measure_residual
from self2self.report import ReportContent, check_report, page, pictures, write_report
from tests.browser import dump_dom, screenshot

# The probe waits for nothing, because the browser's virtual time may run out while a busy machine decodes images.
PROBE = """<script>addEventListener("load", () => {
  const state = () => getComputedStyle(document.querySelector(".clean")).clipPath;
  const found = {before: state(), inner: innerWidth, wide: document.documentElement.scrollWidth};
  const cut = document.getElementById("cut");
  cut.value = 25;
  cut.dispatchEvent(new Event("input"));
  found.after = state();
  found.height = document.getElementById("compare").clientHeight;
  found.window = innerHeight;
  const over = () => Boolean(cut.closest(".frame"));
  found.over = [over()];
  found.images = [...document.images].map((image) => image.complete && image.naturalWidth);
  document.querySelector('[data-zoom="4"]').click();
  found.zoomed = document.images[0].clientWidth;
  found.rendering = getComputedStyle(document.images[0]).imageRendering;
  found.wideZoomed = document.documentElement.scrollWidth;
  found.over.push(over());
  found.below = cut.clientWidth;
  document.querySelector('[data-zoom="0"]').click();
  found.over.push(over());
  found.svg = document.querySelector("svg").getBoundingClientRect().width;
  document.body.dataset.found = JSON.stringify(found);
});</script>"""


def content(channels: int = 3, size: tuple[int, int] = (90, 120), **changes: Any) -> ReportContent:
    rng = np.random.default_rng(0)
    clean = np.zeros((channels, *size)) + np.linspace(0.2, 0.8, size[1])
    noisy = clean + rng.standard_normal(clean.shape) * 0.1
    made = ReportContent(
        name="a & <b>.png",
        noisy=noisy,
        denoised=clean,
        uncertainty=np.abs(clean) * 0.1,
        noise=measure_noise(noisy),
        residual=measure_residual(noisy, clean),
        losses=[(step, 1 / step) for step in range(1, 3000)],
        seconds={"fit": 31.0, "passes": 2.5, "total": 33.9},
        settings=[("engine", "ort"), ("output", "/a/very/long/path/" + "x" * 200)],
        standard_error=0.4,
        notes=["Shown as 8 bits."],
    )
    return replace(made, **changes)


def probe(folder: Path, what: ReportContent, width: int) -> dict[str, Any]:
    path = folder / "probe.html"
    path.write_text(page.report_html(what).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    match = re.search(r'data-found="([^"]*)"', dump_dom(path, width, until="data-found"))
    assert match is not None
    return dict(json.loads(match[1].replace("&quot;", '"')))


@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser_the_slider_moves_images_load_and_nothing_is_too_wide(tmp_path: Path, width: int) -> None:
    found = probe(tmp_path, content(), width)
    assert found["before"] == "inset(0px 0px 0px 50%)"
    assert found["after"] == "inset(0px 0px 0px 25%)"
    assert found["images"] == [120] * 4
    assert found["inner"] == width
    assert found["wide"] <= width
    assert found["zoomed"] == 480
    assert found["rendering"] == "pixelated"
    assert found["wideZoomed"] <= width
    assert 200 < found["svg"] <= width
    # A finger scrolls the enlarged picture, so the slider moves below it.
    assert found["over"] == [True, False, True]
    assert 250 < found["below"] <= width


@pytest.mark.parametrize("size", [(900, 90), (20, 1200)])
def test_tall_pictures_fit_on_the_screen_and_flat_ones_have_room_for_the_handle(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    found = probe(tmp_path, content(1, size, losses=[(1, 1.0), (2, 0.5)]), 1200)
    assert 72 <= found["height"] <= found["window"]
    assert found["wide"] <= 1200


def test_a_screenshot_has_the_picture_in_it(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    red = np.zeros((3, 60, 60))
    red[0] = 1
    write_report(path, content(size=(60, 60), noisy=red, denoised=red, uncertainty=red * 0))
    with Image.open(screenshot(path, tmp_path / "page.png", width=390)) as image:
        shown = np.asarray(image.convert("RGB"))
    assert shown.shape[1] == 390
    assert np.mean((shown == (255, 0, 0)).all(axis=2)) > 0.1


class References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]


def test_the_page_has_no_external_references_and_escapes_names() -> None:
    text = page.report_html(content())
    references = References()
    references.feed(text)
    assert len(references.found) >= 4
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in references.found)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    # The remaining addresses are names of XML vocabularies, which browsers do not fetch.
    assert set(re.findall(r"https?://[^\"'\s<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "a &amp; &lt;b&gt;.png" in text
    assert "<b>.png" not in text


def test_the_page_shows_the_measured_numbers() -> None:
    what = content()
    text = page.report_html(what)
    assert what.noise is not None
    assert f"{what.noise.sigma:.1f}" in text
    assert f"{what.residual.standard_deviation:.1f}" in text
    assert text.count("<td style") == 16
    for part in ("31 s", "2.50 s", "34 s", "Shown as 8 bits."):
        assert part in text


def test_correlated_noise_gives_a_warning() -> None:
    assert 'warning">' not in page.report_html(content())
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, 90, 120))
    for axis in (1, 2):
        noise = noise + 0.5 * np.roll(noise, 1, axis)
    assert 'warning">' in page.report_html(content(noise=measure_noise(noise)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_colour_and_cmyk_all_make_a_page(channels: int) -> None:
    text = page.report_html(content(channels, (8, 9), losses=[], noise=None, standard_error=float("nan")))
    assert text.count("data:image/png") == 4
    assert "<svg" not in text
    assert "unknown" in text


def test_an_image_from_which_nothing_was_removed_makes_a_page() -> None:
    even = np.full((1, 16, 16), 0.5)
    what = content(1, noisy=even, denoised=even, uncertainty=even * 0, residual=measure_residual(even, even))
    assert "+0.00" in page.report_html(what)


def test_large_images_are_reduced_and_the_page_says_so() -> None:
    text = page.report_html(content(1, (40, 2 * pictures.MAX_SIDE)))
    assert re.search(r"reduced to 1600 . 20 pixels", text)
    assert "reduced to" not in page.report_html(content(1))


def test_a_picture_holds_the_pixels() -> None:
    pixels = np.random.default_rng(0).random((3, 5, 7)) * 1.4 - 0.2
    embedded = pictures.picture(pixels)
    with Image.open(io.BytesIO(base64.b64decode(embedded.address.partition(",")[2]))) as image:
        shown = np.asarray(image).transpose(2, 0, 1)
    assert (embedded.width, embedded.height) == (7, 5)
    assert np.abs(shown - np.clip(pixels, 0, 1) * 255).max() <= 0.5


def test_curves_are_thinned_and_keep_their_ends() -> None:
    points = [(step, float(step % 7)) for step in range(1, 5001)]
    thinned = pictures.thin_curve(points)
    assert len(thinned) == pictures.MAX_CURVE_POINTS
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert sorted(thinned) == thinned
    assert pictures.thin_curve(points[:10]) == points[:10]


def test_unsuitable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    for name, text in {
        "page.png": r"Type: --report .*page\.html",
        "none/page.html": "does not exist",
        "folder.html": "is a folder",
        "there.html": "exists already",
    }.items():
        with pytest.raises(OutputError, match=text):
            check_report(tmp_path / name, force=False)
    check_report(tmp_path / "there.html", force=True)
    assert (tmp_path / "there.html").read_text() == "mine"
