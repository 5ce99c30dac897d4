"""The notebook in `examples/` runs from its first cell to its last; fits and passes are shortened."""

from __future__ import annotations

import ast
import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import self2self
from tests.commands import ROOT

NOTEBOOK = ROOT / "examples" / "denoise.ipynb"


def run_cell(source: str, names: dict[str, Any]) -> object:
    """Run a cell as Jupyter does; returns the value of its last line, which Jupyter shows."""
    tree = ast.parse(source)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    shutil.copy(NOTEBOOK.with_name("noisy.png"), tmp_path)
    monkeypatch.chdir(tmp_path)
    few = self2self.FitOptions(steps=1)
    monkeypatch.setattr(self2self, "denoise", partial(self2self.denoise, fit_options=few, passes=2), raising=False)
    monkeypatch.setattr(self2self, "fit", partial(self2self.fit, fit_options=few), raising=False)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        # Without Jupyter's widgets, tqdm says that its bars are plain.
        warnings.simplefilter("ignore")
        shown = [run_cell("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    clean = np.asarray(Image.open(NOTEBOOK.with_name("clean.png")), float)
    assert np.abs(names["result"].image - clean).mean() < 0.7 * np.abs(names["noisy"] - clean).mean()
    pictures = [value for value in shown if hasattr(value, "_repr_html_")]
    assert len(pictures) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "noisy.png"]


def test_the_notebook_holds_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs")]
