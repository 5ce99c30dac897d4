"""Averages of two weights."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "average_weights.py"


def average(monkeypatch: pytest.MonkeyPatch, folder: Path, second: dict[str, torch.Tensor], share: str) -> Path:
    save_file({"a": torch.tensor([1.0, 2.0], dtype=torch.float16)}, folder / "first.safetensors")
    save_file(second, folder / "second.safetensors")
    output = folder / "out.safetensors"
    names = [str(folder / "first.safetensors"), str(folder / "second.safetensors")]
    monkeypatch.setattr(sys, "argv", ["average_weights.py", *names, share, "-o", str(output)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return output


def test_the_share_is_the_weight_of_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = average(monkeypatch, tmp_path, {"a": torch.tensor([5.0, 2.0], dtype=torch.float16)}, "0.75")
    assert load_file(output)["a"].tolist() == [4.0, 2.0]
    assert load_file(output)["a"].dtype == torch.float16


def test_other_weights_and_shares_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        average(monkeypatch, tmp_path, {"b": torch.zeros(2)}, "0.5")
    with pytest.raises(SystemExit):
        average(monkeypatch, tmp_path, {"a": torch.zeros(2)}, "1.5")
    assert not (tmp_path / "out.safetensors").exists()
