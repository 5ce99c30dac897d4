"""Exported models that tests of the runtime share and must not change, and a GPU that only exists by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from self2self.runtime.engines import gpu as gpu_checks
from self2self.runtime.model import Model, load_model
from tests.conftest import Fitted, MakeFitted
from tests.runtime.gpu_machine import CARD


@pytest.fixture(scope="session")
def grey(make_fitted: MakeFitted) -> Fitted:
    """A tiny network for one channel."""
    return make_fitted(channels=1, drop_rate=0.3, seed=1)


@pytest.fixture(scope="session")
def grey_onnx(grey: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`grey` as an ONNX file."""
    from self2self.export.to_onnx import to_onnx

    path = tmp_path_factory.mktemp("grey") / "grey.onnx"
    to_onnx(grey.network, grey.contract, path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_onnx: Path) -> Model:
    """The tiny RGB network, as the runtime sees it."""
    return load_model(tiny_onnx)


@pytest.fixture(scope="session")
def grey_model(grey_onnx: Path) -> Model:
    """The tiny grey network, as the runtime sees it."""
    return load_model(grey_onnx)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that serves every engine; nothing runs on it."""
    monkeypatch.setattr(gpu_checks, "find_gpu", lambda: CARD)
