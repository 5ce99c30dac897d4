from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from torch import nn

from benchmarks.zoo import measure
from benchmarks.zoo_models import Entry


def test_a_model_is_exported_and_compared(tmp_path: Path) -> None:
    """The last layer starts at zero, as in many networks, which would hide the dropout before it."""

    def make() -> tuple[Any, Any]:
        last = nn.Linear(8, 3)
        nn.init.zeros_(last.weight)
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), last), torch.randn(2, 4)

    row = measure(Entry("torch", make), tmp_path)
    assert row["draws"] == 1
    assert row["cut"] == 0
    assert row["computed_once"]
    assert row["separable"]
    assert 0.3 < row["rms_z"] < 2.5
    assert 0.9 < row["std_ratio"] < 1.1
