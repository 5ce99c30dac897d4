"""Peak memory, measured in separate processes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from self2self.bench import memory as memory_module
from self2self.bench.memory import measure_memory
from self2self.machine.system import peak_memory_bytes


def test_memory_of_an_engine_excludes_the_parent_process(tiny_onnx: Path) -> None:
    ballast = np.ones(60_000_000)
    memory = measure_memory("ort", tiny_onnx, (64, 64), 2)
    assert isinstance(memory, dict)
    assert memory["interpreter_bytes"] < memory["loaded_bytes"] <= memory["peak_bytes"]
    assert memory["growth_bytes"] == memory["peak_bytes"] - memory["interpreter_bytes"]
    assert memory["device_bytes"] is None
    if sys.platform == "linux":
        # The peak of a large parent process must not appear in the measured process.
        assert memory["peak_bytes"] < ballast.nbytes < peak_memory_bytes()


def test_an_engine_that_does_not_run_gives_one_line(tiny_onnx: Path) -> None:
    memory = measure_memory("steam", tiny_onnx, (64, 64), 1)
    assert isinstance(memory, str)
    assert "--engine is 'steam'" in memory
    assert "\n" not in memory


def test_files_of_the_current_folder_are_not_imported(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert isinstance(measure_memory("ort", tiny_onnx, (64, 64), 1), dict)


def test_an_engine_that_hangs_ends_at_the_time_limit(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "TIMEOUT_SECONDS", 0.01)
    assert measure_memory("ort", tiny_onnx, (64, 64), 1) == "its process did not finish 2 runs in 0.01 s"
