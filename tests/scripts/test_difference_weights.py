"""The 8-bit difference of two weights, and its sum with the first of them."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from self2self.train.start_weights import with_difference

SCRIPT = Path(__file__).parents[2] / "scripts" / "difference_weights.py"


def stored(
    monkeypatch: pytest.MonkeyPatch, folder: Path, first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]
) -> Path:
    save_file(first, folder / "first.safetensors")
    save_file(second, folder / "second.safetensors")
    output = folder / "out.safetensors"
    names = [str(folder / "first.safetensors"), str(folder / "second.safetensors")]
    monkeypatch.setattr(sys, "argv", ["difference_weights.py", *names, "-o", str(output)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return output


def test_the_sum_is_the_second_to_half_a_step_of_each_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (5, 3, 3, 3), "a.bias": (5,), "same.weight": (4, 2, 1, 1)}
    first = {name: torch.randn(shape, generator=draw).half() for name, shape in shapes.items()}
    second = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=draw).half() for name, tensor in first.items()}
    second["same.weight"] = first["same.weight"].clone()
    # A channel that differs by far more must not make the others less exact.
    second["a.weight"][2] += 3
    output = stored(monkeypatch, tmp_path, first, second)
    rebuilt = with_difference(first, load_file(output))
    assert {name: tensor.shape for name, tensor in rebuilt.items()} == {name: t.shape for name, t in first.items()}
    assert torch.equal(rebuilt["same.weight"], first["same.weight"].float())
    change = second["a.weight"].float() - first["a.weight"].float()
    error = (rebuilt["a.weight"] - second["a.weight"].float()).abs().flatten(1).amax(1)
    assert torch.all(error <= change.abs().flatten(1).amax(1) / 127 / 2 * 1.01 + 1e-6)
    assert torch.all(error[[0, 1, 3, 4]] < 0.002)
    torch.testing.assert_close(rebuilt["a.bias"], second["a.bias"].float(), rtol=0, atol=0.002)


def test_a_difference_takes_half_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"a.weight": torch.zeros(64, 32, 3, 3, dtype=torch.float16)}
    second = {"a.weight": torch.rand(64, 32, 3, 3).half()}
    output = stored(monkeypatch, tmp_path, first, second)
    assert output.stat().st_size < 0.53 * (tmp_path / "second.safetensors").stat().st_size


def test_weights_of_another_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        stored(monkeypatch, tmp_path, {"a": torch.zeros(2)}, {"a": torch.zeros(3)})
    assert not (tmp_path / "out.safetensors").exists()
