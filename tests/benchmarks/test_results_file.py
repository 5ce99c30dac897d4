"""The command line and the result of benchmarks of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results_file import measure_images


def test_images_are_measured_printed_written_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Drawn:
        """Stands for a figure."""

        def __init__(self, rows: list[dict[str, Any]]) -> None:
            self.rows = rows

        def savefig(self, path: Path) -> None:
            path.write_text(str(len(self.rows)))

    result, plot = tmp_path / "r.json", tmp_path / "p.svg"
    monkeypatch.setattr("sys.argv", ["bench", str(tmp_path), "-o", str(result), "--plot", str(plot)])
    measure_images(
        "About.",
        "of_images",
        lambda data: ({"image": name, "folder": data.name} for name in ("a", "b")),
        lambda row: f"row {row['image']}",
        Drawn,  # type: ignore[arg-type]
        summary=lambda rows: f"{len(rows)} images",
        levels=[1, 2],
    )
    values = json.loads(result.read_text())
    assert values["rows"] == [{"image": name, "folder": tmp_path.name} for name in ("a", "b")]
    assert values["levels"] == [1, 2]
    assert values["command"].startswith("python -m benchmarks.of_images")
    assert capsys.readouterr().out == "row a\nrow b\n\n2 images\n"
    assert plot.read_text() == "2"
