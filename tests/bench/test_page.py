"""The page of `self2self bench` in a real browser, and its text table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from self2self.bench.page import page
from self2self.bench.table import text
from tests.bench.results import a_result
from tests.browser import dump_dom, screenshot

STEADY = [1.0, 1.1, 0.9]
ENGINES = {("ort-cuda", 1): STEADY, ("ort", 1): STEADY, ("ort", 4): [0.8, 0.816, 0.824], ("torch", 1): STEADY}
PROBE = """<script>
addEventListener("load", () => {
  const root = document.documentElement, charts = [...document.querySelectorAll("figure svg")];
  document.body.dataset.overflow = root.scrollWidth - root.clientWidth;
  document.body.dataset.width = root.clientWidth;
  document.body.dataset.charts = charts.filter(c => c.getBoundingClientRect().width > 250
    && c.getBoundingClientRect().height > 80 && c.querySelectorAll("path").length > 5).length;
  document.body.dataset.smallest = Math.min(...charts.map(c => Math.min(...[...c.querySelectorAll("text")]
    .map(t => t.getBoundingClientRect().height))));
  document.body.dataset.words = [...document.querySelectorAll(".word")].filter(w => w.clientHeight < 30).length;
  document.body.dataset.reached = document.querySelectorAll('.wide[tabindex="0"][aria-label]').length;
  document.body.dataset.fetched = performance.getEntriesByType("resource").length;
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  document.body.dataset.repeated = ids.length - new Set(ids).size;
});
</script></body>"""


@pytest.fixture(scope="module")
def html() -> str:
    return page(a_result(ENGINES))


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_in_a_browser(html: str, width: int, tmp_path: Path) -> None:
    copied = tmp_path / "page.html"
    copied.write_text(html.replace("</body>", PROBE), encoding="utf-8")
    dom = dump_dom(copied, width, until="data-repeated")
    values = dict(re.findall(r'data-(\w+)="([-\d.]+)"', dom))
    assert int(values["width"]) == width
    assert int(values["overflow"]) == 0
    assert int(values["charts"]) == 5
    assert float(values["smallest"]) > 10
    # No word of the command is broken, and a keyboard scrolls the table.
    assert int(values["words"]) > 1
    assert int(values["reached"]) >= 1
    assert int(values["fetched"]) == 0
    assert int(values["repeated"]) == 0
    assert "Abacus &lt;1&gt;" in dom


def test_a_picture_of_the_page(html: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    screenshot(path, tmp_path / "page.png", width=600)
    from PIL import Image

    with Image.open(tmp_path / "page.png") as picture:
        colours = picture.convert("RGB").getcolors(2**20)
        assert picture.size[0] == 600
    # The grey of the plain loop and the colours of three engines.
    found = {colour for _, colour in colours or []}
    assert {(0x98, 0xA3, 0xB0), (0x1F, 0x6F, 0xB2), (0xE0, 0x8A, 0x1E), (0x2C, 0x9A, 0x6B)} <= found


def test_the_page_names_no_address_and_is_the_same_every_time(html: str) -> None:
    assert "http" not in html
    assert "//" not in html
    assert "<script" not in html
    assert html == page(a_result(ENGINES))


def test_the_page_says_what_was_not_measured_and_what_became_slower() -> None:
    result = a_result({("ort", 1): STEADY}, curve=False)
    case = result["cases"][1]
    slower = {key: case[key] for key in ("engine", "precision", "height", "width", "batch")}
    slower |= {"before": case["ratio_to_plain"], "after": case["ratio_to_plain"], "change": -0.2}
    result["against"] = {
        "file": "old.json",
        "regressions": [slower],
        "improvements": [],
        "unchanged": [],
        "differences": ["cpu: A then, B now"],
    }
    html = page(result)
    assert "Not measured: the curve needs a fitted network" in html
    assert "engine trt: no GPU." in html
    assert "Against old.json" in html
    assert "cpu: A then, B now" in html
    assert re.search(r'ort fp32 64x96 batch 1.*class="bad">-20 %', html, re.DOTALL)


def test_the_page_without_memory_and_without_engines() -> None:
    result = a_result({("ort", 1): STEADY}, curve=False)
    for case in result["cases"]:
        case["memory"] = None
    assert page(result).count("<svg") == 2
    del result["cases"][1]
    assert page(result).count("<svg") == 1


def test_the_table_fits_into_a_hundred_columns_and_has_every_figure() -> None:
    lines = text(a_result(ENGINES)).splitlines()
    assert max(map(len, lines)) <= 100
    (row,) = (line.split() for line in lines if line.startswith("ort ") and line.split()[1] == "4")
    # 2 s of the plain loop against 0.816 s, four passes each, at 64x96.
    assert row == "ort 4 4.90 4.86-4.98 2.45 2.43-2.49 0.030 20.4 40.8 140.8 2.0 0.50 100 98%".split()  # noqa: SIM905
    assert ["10", "28.500"] in [line.split() for line in lines]


def test_large_figures_in_the_table_stay_apart() -> None:
    lines = text(a_result({("ort", 1): [0.0004, 0.002, 0.01]})).splitlines()
    (row,) = (line.split() for line in lines if line.startswith("ort   "))
    assert row[:6] == ["ort", "1", "2000", "720-8400", "1000", "360-4200"]
