"""The fixture `model`: tests of TensorRT's engines may write files beside it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def model(tiny_onnx: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model in a folder of its own."""
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    return path
