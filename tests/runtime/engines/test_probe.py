"""Checks that every engine is tried in a process of its own, and that every outcome becomes one line."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, UsageError
from self2self.export.to_onnx import to_onnx
from self2self.machine.nvidia import Gpu, NoGpu, find_gpu
from self2self.runtime.engines import probe as probe_module
from self2self.runtime.engines.onnxruntime.cpu import OrtEngine
from self2self.runtime.engines.onnxruntime.cuda import OrtCudaEngine
from self2self.runtime.engines.probe import ProbeResult, check, notes, probe, probe_engines
from self2self.runtime.engines.probe_model import Case, case_of, make_case
from self2self.runtime.engines.registry import ENGINES, NEEDS_GPU, engine_class
from tests.conftest import Fitted

LIMIT = 300.0
"""Time limit in seconds; a busy machine must not look like a broken engine."""


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case()


@pytest.fixture
def folder(case: Case, tmp_path: Path) -> Path:
    (tmp_path / "probe.onnx").write_bytes(case.model)
    arrays: dict[str, Any] = {"image": case.image, "expected": case.expected, **case.masks}
    np.savez(tmp_path / "probe.npz", **arrays)
    return tmp_path


def stub(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    """Put a module with `source` before the installed one on the path of the engines' processes."""
    (folder / "stubs").mkdir()
    (folder / "stubs" / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder / "stubs"))


def test_the_engines_of_this_machine() -> None:
    rows = {row.name: row for row in probe_engines(LIMIT)}
    assert list(rows) == list(ENGINES)
    for name in ("mnn", "ort", "torch"):
        row = rows[name]
        assert row.works, row
        assert row.device == "CPU"
        assert row.difference is not None
        assert row.difference < 1e-4
        assert (row.cause, row.reason, row.fix) == ("", "", "")
        assert row.seconds > 0
    assert rows["ort"].provider == "CPUExecutionProvider"
    missing = find_gpu()
    if isinstance(missing, NoGpu):
        for name in NEEDS_GPU:
            row = rows[name]
            assert not row.works
            assert (row.cause, row.reason, row.fix) == (missing.cause, missing.reason, missing.remedy)


@pytest.mark.parametrize(
    ("source", "cause", "text"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            Obstacle.CRASHED,
            "its libraries crashed (SIGSEGV)",
        ),
        ("import os; print('MNN: no'); os._exit(7)", Obstacle.CRASHED, "its process ended with exit code 7"),
        (
            "raise ImportError('libgomp.so.1: gone\\nmore')",
            Obstacle.DOES_NOT_LOAD,
            "does not load (libgomp.so.1: gone)",
        ),
        ("__version__ = '0.1'", Obstacle.OTHER, "a small model fails (module 'MNN' has no attribute '"),
    ],
    ids=["crash", "exit", "import", "too old"],
)
def test_a_library_that_fails(
    source: str, cause: Obstacle, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(folder, monkeypatch, "MNN", source)
    row = probe("mnn", folder, LIMIT)
    assert not row.works
    assert row.cause == cause
    assert text in row.reason
    assert "\n" not in row.reason
    assert row.fix == "Install it again: pip install --force-reinstall MNN."


def test_a_library_that_hangs_is_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(folder, monkeypatch, "MNN", "import time; time.sleep(1000)")
    row = probe("mnn", folder, 2)
    assert (row.works, row.cause) == (False, Obstacle.TIMED_OUT)
    assert row.reason == "it did not finish a small model in 2 s"
    assert row.fix == "Give it more time: self2self engines --timeout 10."
    assert row.seconds >= 2


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_time_limits_that_are_not_positive_are_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="expected seconds, for example --timeout 60"):
        probe_engines(seconds)


def test_a_package_that_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MNN", None)
    row = check("mnn", folder)
    assert row == ProbeResult(
        "mnn", False, cause=Obstacle.NOT_INSTALLED, reason="MNN is not installed", fix="Install it: pip install MNN."
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_model_of_the_user(precision: str, tiny: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_onnx(tiny.network, replace(tiny.contract, precision=precision), tmp_path / "probe.onnx")
    case = case_of(tmp_path / "probe.onnx")
    np.savez(tmp_path / "probe.npz", image=case.image, expected=case.expected, **case.masks)  # type: ignore[arg-type]
    engine = "torch" if precision == "bf16" else "ort"
    assert check(engine, tmp_path).works

    def doubled(self: Any, masks: Any) -> Any:
        return 2 * kind.run(self, masks)

    kind = engine_class(engine)
    as_engine(monkeypatch, type("Doubled", (kind,), {"run": doubled}))
    assert check(engine, tmp_path).cause == Obstacle.WRONG_RESULT


def as_engine(monkeypatch: pytest.MonkeyPatch, kind: type[Any]) -> None:
    monkeypatch.setattr(probe_module, "engine_class", lambda name: kind)


@pytest.mark.parametrize("wrong", [lambda p: p + 0.01, lambda p: p * np.nan], ids=["inexact", "not a number"])
def test_wrong_numbers_are_found(wrong: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(OrtEngine):
        def run(self, masks: Any) -> Any:
            return wrong(super().run(masks))

    as_engine(monkeypatch, Wrong)
    row = check("ort", folder)
    assert (row.works, row.cause) == (False, Obstacle.WRONG_RESULT)
    assert row.reason.startswith("its numbers are wrong by ")
    assert row.provider == "CPUExecutionProvider"
    assert asdict(row)["difference"] is None or row.difference == pytest.approx(0.01, rel=1e-3)


def test_an_engine_that_takes_dropout_for_identity_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Identity(OrtEngine):
        def run(self, masks: Any) -> Any:
            return super().run({name: mask | (name != "input_mask") for name, mask in masks.items()})

    as_engine(monkeypatch, Identity)
    assert check("ort", folder).cause == Obstacle.WRONG_RESULT


def test_a_session_that_fell_back_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FellBack(OrtCudaEngine):
        @classmethod
        def version(cls) -> str:
            return "ONNX Runtime 1"

        @classmethod
        def device_name(cls) -> str:
            return "NVIDIA"

        def providers(self) -> list[tuple[str, dict[str, str]]]:
            return []

    as_engine(monkeypatch, FellBack)
    row = check("ort-cuda", folder)
    assert (row.works, row.cause, row.version) == (False, Obstacle.FELL_BACK, "ONNX Runtime 1")
    assert row.reason == "ONNX Runtime left the model, or a part of it, to the CPU"


def test_the_reason_is_the_librarys_and_names_no_temporary_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(OrtEngine):
        def prepare(self) -> None:
            raise FileFormatError(f"{self.model.path}: cannot be loaded") from ValueError("no kernel for Pad\nmore")

    as_engine(monkeypatch, Fails)
    row = check("ort", folder)
    assert row.reason == "a small model fails (no kernel for Pad)"
    assert row.version.startswith("ONNX Runtime ")
    assert "pip install --force-reinstall onnxruntime" in row.fix


def test_two_onnxruntime_packages_are_noted_even_where_every_engine_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for packages in (("onnxruntime",), ("onnxruntime-gpu",), ()):
        monkeypatch.setattr(
            "self2self.runtime.engines.onnxruntime.cpu.is_distribution",
            lambda name, packages=packages: name in packages,
        )
        assert notes() == []
    monkeypatch.setattr("self2self.runtime.engines.onnxruntime.cpu.is_distribution", lambda name: True)
    (note,) = notes()
    assert note.startswith("both onnxruntime and onnxruntime-gpu are installed")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu" in note


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    class Works(OrtEngine):
        @classmethod
        def device_name(cls) -> str:
            return Gpu("NVIDIA RTX 4090", (8, 9), 2**34, (13, 0)).name

    as_engine(monkeypatch, Works)
    row = check("ort-cuda", folder)
    assert (row.works, row.device) == (True, "NVIDIA RTX 4090")


def test_an_error_from_a_plain_message_has_no_parts() -> None:
    error = EngineUnavailableError("engine x: broken.")
    assert (error.cause, error.reason, error.fix) == (Obstacle.OTHER, "", "")
    assert str(EngineUnavailableError.of("x", Obstacle.NO_GPU, "no GPU", "Buy one.")) == (
        "engine x: no GPU. Buy one. Use --engine auto."
    )
