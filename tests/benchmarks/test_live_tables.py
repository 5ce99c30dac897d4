"""The table of the models, and runs that go on."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.pages import filled
from benchmarks.results_file import earlier_rows

ROWS = [
    {"draws": 2, "made": 2, "onnx": 2e-7, "neutral": 0.0, "openvino": 3e-7, "cut": 0.0, "computed_once": True},
    {"draws": 1, "made": 1, "onnx": 1e-7, "neutral": None, "openvino": "refused", "cut": 1e-8, "computed_once": True},
    {"draws": 4, "made": 4, "onnx": 4e-7, "neutral": 1e-8, "openvino": None, "cut": 0.0, "computed_once": False},
    {"error": "ValueError: no"},
]


def test_the_table_counts_models_and_draws(tmp_path: Path) -> None:
    libraries = ("a", "a", "b", "b")
    rows = [{"library": library, "model": "m", **row} for library, row in zip(libraries, ROWS, strict=True)]
    (tmp_path / "zoo.json").write_text(json.dumps({"rows": rows}))
    page = '<!-- table {"made_by": "zoo", "results": {"": "zoo.json"}} -->\n<!-- end of table -->\n'
    lines = filled(page, tmp_path).splitlines()
    assert lines[3:6] == [
        "| a | 2 of 2 | 3 of 3 | 2.0e-07 | 0.0e+00 | 3.0e-07 (1) | 1 of 2 |",
        "| b | 1 of 2 | 4 of 4 | 4.0e-07 | 1.0e-08 |  | 0 of 0 |",
        "| all | 3 of 4 | 7 of 7 | 4.0e-07 | 1.0e-08 | 3.0e-07 (1) | 1 of 2 |",
    ]


def test_a_run_goes_on_with_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert earlier_rows(path, passes=4) == []
    path.write_text(json.dumps({"passes": 4, "rows": ROWS}))
    assert earlier_rows(path, passes=4) == ROWS[:3]
    assert earlier_rows(path, passes=5) == []
