"""The benchmark of training steps on a GPU, run on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gpu_fit
from self2self.machine.nvidia import NoGpu
from tests.train.test_fit import TINY


def test_every_recipe_is_timed_in_both_ways() -> None:
    tiny = {
        "one": replace(TINY, steps=gpu_fit.UNTIMED_STEPS + 4),
        "two": replace(TINY, steps=gpu_fit.UNTIMED_STEPS + 3, crop=64),
    }
    rows = gpu_fit.measure(tiny, 2, "cpu")
    assert [row["recipe"] for row in rows] == ["one", "two"]
    for row in rows:
        assert set(row["milliseconds_per_step"]) == {"graph", "operators"}
        for found in (*row["milliseconds_per_step"].values(), row["ratio"]):
            assert 0 < found["p10"] <= found["median"] <= found["p90"]


def test_without_a_gpu_it_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.gpu.find_gpu", lambda: NoGpu("no-gpu", "there is no GPU", "Get one."))
    output = tmp_path / "fit.json"
    assert gpu_fit.main(["-o", str(output)]) == 4
    assert not output.exists()
    assert capsys.readouterr().err == "error: the GPU benchmark cannot run: there is no GPU. Get one.\n"
