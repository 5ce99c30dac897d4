"""The command `self2self engines`, and the refusal of an engine that does not work here."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from self2self.cli.engines import table
from self2self.errors import Obstacle
from self2self.machine.nvidia import NoGpu, find_gpu
from self2self.runtime.engines import probe
from self2self.runtime.engines.probe import ProbeResult
from self2self.runtime.engines.registry import ENGINES, NEEDS_GPU
from tests.commands import ROOT, parse_json, run_cli

WORKS = ProbeResult("ort", True, "ONNX Runtime 1.31", "CPU", "CPUExecutionProvider", 1e-6, 1.5)
BROKEN = ProbeResult(
    "trt-rtx",
    False,
    cause=Obstacle.NOT_INSTALLED,
    reason="TensorRT-RTX is not installed",
    fix="Install it: pip install x.",
)
REMARK = "both onnxruntime and onnxruntime-gpu are installed."


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Fake two engines and a note; return the time limits of all calls."""
    limits: list[float] = []

    def fake(timeout_seconds: float, model: Path | None) -> list[ProbeResult]:
        limits.append(timeout_seconds)
        return [WORKS, BROKEN]

    monkeypatch.setattr(probe, "probe_engines", fake)
    monkeypatch.setattr(probe, "notes", lambda: [REMARK])
    return limits


def test_the_table(probed: list[float]) -> None:
    result = run_cli("engines")
    assert result.stdout.splitlines() == [
        "engine   state          version            device",
        "ort      works          ONNX Runtime 1.31  CPU",
        "trt-rtx  does not work  -                  -",
        "    TensorRT-RTX is not installed",
        "    Install it: pip install x.",
        f"note: {REMARK}",
    ]
    assert result.stderr == ""
    assert table([]) == "engine  state  version  device"
    assert run_cli("engines", "--quiet").stdout == ""
    assert probed == [60.0, 60.0]


def test_the_json(probed: list[float]) -> None:
    values = parse_json(run_cli("engines", "--json", "--timeout", "7"))
    assert values["notes"] == [REMARK]
    works, broken = values["engines"]
    assert works == {
        "name": "ort",
        "works": True,
        "version": "ONNX Runtime 1.31",
        "device": "CPU",
        "provider": "CPUExecutionProvider",
        "difference": 1e-6,
        "seconds": 1.5,
        "cause": "",
        "reason": "",
        "fix": "",
    }
    assert (broken["cause"], broken["fix"]) == ("not-installed", "Install it: pip install x.")
    assert probed == [7.0]


def test_a_wrong_time_limit() -> None:
    error = run_cli("engines", "--timeout", "0", expect=2).stderr
    assert error == "error: --timeout is 0; expected seconds, for example --timeout 60.\n"


def test_every_engine_has_a_row_in_a_fresh_process(tmp_path: Path) -> None:
    # The limit is short to save time; an engine that exceeds it has a row, too.
    done = command(tmp_path, "engines", "--timeout", "0.05")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")] == ["engine", *ENGINES]
    assert "it did not finish a small model in 0.05 s" in done.stdout
    assert list(tmp_path.iterdir()) == []


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not isinstance(find_gpu(), NoGpu), reason="this machine has a GPU, on which they may work")
@pytest.mark.skipif(os.name != "posix", reason="counts processor time as POSIX does")
@pytest.mark.parametrize("engine", NEEDS_GPU)
def test_a_gpu_engine_without_a_gpu_is_refused_at_once(engine: str, tmp_path: Path) -> None:
    import resource

    missing = find_gpu()
    assert isinstance(missing, NoGpu)

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    done = command(tmp_path, "infer", "--engine", engine)
    # Processor time does not depend on the load of the machine.
    assert used() - before < 2
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr == f"error: engine {engine}: {missing.reason}. {missing.remedy} Use --engine auto.\n"
    assert list(tmp_path.iterdir()) == []


HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "MNN",
    "_tools",
    "matplotlib",
    "PIL",
    "imagecodecs",
)


def test_the_refusal_loads_no_library(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from self2self.cli import app\n"
        "try:\n"
        "    app(['infer', '--engine', 'trt', '--precision', 'fp16'])\n"
        "except SystemExit:\n"
        f"    print(sorted(set({HEAVY!r}) & sys.modules.keys()))"
    )
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    expected = "[]" if isinstance(find_gpu(), NoGpu) else done.stdout.strip()
    assert done.stdout.strip() == expected, done.stderr


def test_a_model_whose_numbers_one_engine_changes(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path) -> None:
    wrong = replace(WORKS, name="mnn", works=False, cause=Obstacle.WRONG_RESULT, reason="its numbers are wrong by 1")
    tried: list[Path | None] = []

    def fake(timeout_seconds: float, model: Path | None) -> list[ProbeResult]:
        tried.append(model)
        return [WORKS, wrong]

    monkeypatch.setattr(probe, "probe_engines", fake)
    result = run_cli("engines", "--check", str(tiny_onnx), expect=6)
    assert "tiny.onnx: mnn computes other numbers than PyTorch" in result.stderr
    assert "its numbers are wrong by 1" in result.stdout
    assert tried == [tiny_onnx]


def test_a_damaged_model_is_not_tried(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert "bad.onnx: is not an ONNX file" in run_cli("engines", "--check", str(tmp_path / "bad.onnx"), expect=6).stderr
