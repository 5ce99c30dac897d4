"""The benchmark of settings: start weights without a fit, and refused settings."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import tuning


def run(monkeypatch: pytest.MonkeyPatch, output: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tuning", "--images", "coffee", "-o", str(output), *arguments])
    tuning.main()


def test_start_weights_remove_noise_without_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "result.json"
    run(
        monkeypatch, output, "--noise", "gaussian:25", "--infer", "at=0,passes=10", "--infer", "at=0,passes=10,drop=0.5"
    )
    rows = json.loads(output.read_text())["rows"]
    assert [row["infer"] for row in rows] == ["at=0,passes=10", "at=0,passes=10,drop=0.5"]
    # The noise itself is 20.2 dB.
    assert rows[0]["psnr"] > 29
    assert 25 < rows[1]["psnr"] < rows[0]["psnr"]


def test_less_than_a_block_of_passes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "result.json", "--infer", "passes=8")
    assert "at least passes=10" in capsys.readouterr().err
