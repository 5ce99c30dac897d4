"""The benchmark of exports: the counted run and the time limits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import export_time


def test_the_best_run_counts_and_is_held_against_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"export": iter([31.0, 29.0]), "trt-rtx": iter([25.0, 21.0])}
    folders: list[Path] = []

    def run(part: str, folder: Path, side: int) -> dict[str, float]:
        assert side == 512
        folders.append(folder)
        return {"all": next(taken[part])}

    monkeypatch.setattr(export_time, "in_a_process", run)
    parts = export_time.measure(512, 2)
    assert (parts["export"]["seconds"], parts["export"]["reached"]) == ({"all": 29.0}, True)
    assert (parts["trt-rtx"]["seconds"], parts["trt-rtx"]["reached"]) == ({"all": 21.0}, False)
    # Both parts of a run share a folder, and each run has a new one.
    assert folders[0] == folders[1] != folders[2] == folders[3]


def test_an_engine_is_built_beside_the_model(tiny_onnx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    shutil.copy(tiny_onnx, tmp_path / "model.onnx")
    assert export_time.engine(tmp_path, (64, 64))["build"] > 0
    assert list((tmp_path / "engines").glob("model.trt-rtx.*64x64*.engine"))
