"""Pages whose tables are made from results files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.pages import filled

ROOT = Path(__file__).parent.parent.parent
ROWS = [
    {"image": "a", "method": "noisy", "psnr": 20.0, "gmsd": 0.2},
    {"image": "b", "method": "noisy", "psnr": 21.0, "gmsd": 0.1},
    {"image": "a", "method": "ours", "psnr": 30.004, "gmsd": 0.05},
    {"image": "b", "method": "ours", "psnr": 31.0, "gmsd": 0.01},
    {"image": "c", "method": "ours", "psnr": 99.0, "gmsd": 0.0},
]


def page(what: dict[str, object]) -> str:
    return f"before\n<!-- table {json.dumps(what)} -->\nold\n<!-- end of table -->\nafter\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "r.json").write_text(json.dumps({"rows": ROWS}))
    return tmp_path


def test_means_are_those_of_the_images_that_all_methods_have(folder: Path) -> None:
    what = {"results": {"r": "r.json"}, "methods": {"noisy": "noisy", "ours": "`fast`"}, "scores": ["psnr", "gmsd"]}
    lines = filled(page(what), folder).split("\n")
    assert lines[0] == "before"
    assert lines[2:6] == [
        "| method | PSNR | GMSD |",
        "| --- | --- | --- |",
        "| noisy | 20.50 | 0.1500 |",
        "| `fast` | **30.50** | **0.0300** |",
    ]
    assert lines[-2:] == ["after", ""]


def test_a_line_for_each_image(folder: Path) -> None:
    what = {"results": {"r": "r.json"}, "methods": {"noisy": "noisy", "ours": "ours"}, "by": "image", "images": "a"}
    assert "| a | 20.00 | **30.00** |\n| mean | 20.00 | **30.00** |" in filled(page(what), folder)


def test_fields_of_a_single_method(folder: Path) -> None:
    what = {"results": {"r": "r.json"}, "methods": {"noisy": ""}, "fields": {"psnr": "dB", "gmsd": "GMSD"}}
    assert "| image | dB | GMSD |\n| --- | --- | --- |\n| a | 20.00 | 0.20 |" in filled(page(what), folder)


def test_a_method_without_results_is_reported(folder: Path) -> None:
    with pytest.raises(KeyError, match=r"r\.json has no psnr of theirs"):
        filled(page({"results": {"r": "r.json"}, "methods": {"theirs": "theirs"}}), folder)


@pytest.mark.parametrize("name", ["docs/quality.md"])
def test_the_tables_of_the_documents_are_those_of_the_results(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert "<!-- table {" in text
    assert filled(text) == text


def test_a_table_of_times_has_the_columns_that_the_page_asks_for(folder: Path) -> None:
    row = {"image": "1 megapixels", "seconds": 4.0, "psnr": 30.0, "user_seconds": 9.0, "system_seconds": 1.0}
    row |= {"page_faults": 5, "peak_bytes": 2e9, "interpreter_bytes": 1e9, "inputs": {"way": "default", "round": 0}}
    (folder / "r.json").write_text(json.dumps({"rows": [row]}))
    what = {"results": {"r": "r.json"}, "made_by": "megapixels", "columns": [0, 1, 7]}
    assert "| 1 megapixels | 4.0 | 1.00 GB |" in filled(page(what), folder)
