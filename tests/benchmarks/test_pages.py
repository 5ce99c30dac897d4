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


def test_a_method_without_results_is_reported(folder: Path) -> None:
    with pytest.raises(KeyError, match=r"r\.json has no psnr of theirs"):
        filled(page({"results": {"r": "r.json"}, "methods": {"theirs": "theirs"}}), folder)


CELLS = [
    {"image": image, "method": f"{rate} {steps}", "kind": kind, "rate": rate, "steps": steps, "psnr": psnr}
    for image, kind, rate, steps, psnr in (
        ("a", "x", 0.2, 50, 29.0),
        ("b", "x", 0.2, 50, 30.0),
        ("a", "x", 0.2, 150, 30.0),
        ("a", "x", 0.4, 50, 28.0),
        ("a", "y", 0.4, 50, 99.0),
    )
]


def cells_table(folder: Path, **what: object) -> list[str]:
    (folder / "cells.json").write_text(json.dumps({"rows": CELLS}))
    return filled(page({"results": {"": "cells.json"}, **what}), folder).split("\n")[2:-2]


def test_lines_and_columns_by_fields_have_means(tmp_path: Path) -> None:
    lines = cells_table(
        tmp_path,
        rows={"rate": "drop rate"},
        columns="steps",
        values={"psnr": ""},
        where={"kind": "x"},
        best="max",
        digits=1,
        names={"0.4": "a lot"},
    )
    assert lines[0] == "| drop rate | 50 | 150 |"
    assert lines[2:4] == ["| 0.2 | **29.5** | **30.0** |", "| a lot | 28.0 |  |"]


def test_several_values_by_fields(tmp_path: Path) -> None:
    lines = cells_table(tmp_path, rows={"kind": "", "rate": ""}, values={"steps": "steps", "psnr": "PSNR"}, best="min")
    assert lines[0] == "|  |  | steps | PSNR |"
    assert lines[2] == "| x | 0.2 | 83.33 | 29.67 |"
    assert lines[3:5] == ["| x | 0.4 | **50** | **28.00** |", "| y | 0.4 | **50** | 99.00 |"]


def test_columns_in_an_order_and_the_best_of_each_row(tmp_path: Path) -> None:
    heads = {"150": "long", "50": "short"}
    for row in CELLS:
        row["length"] = str(row["steps"])
    what = {"rows": {"rate": ""}, "columns": "length", "values": {"psnr": ""}, "where": {"kind": "x"}}
    lines = cells_table(tmp_path, **what, heads=heads, best="max", best_of="row")
    assert lines[0] == "|  | long | short |"
    assert lines[2:4] == ["| 0.2 | **30.00** | 29.50 |", "| 0.4 |  | **28.00** |"]


def test_fields_that_no_row_has_are_reported(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no row has rate, seconds"):
        cells_table(tmp_path, rows={"rate": ""}, values={"seconds": ""})


@pytest.mark.parametrize(
    "name",
    ["README.md", "docs/guide.md", "docs/performance.md", "docs/quality.md", "docs/reliability.md", "docs/studies.md"],
)
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
