"""The script that makes the start weights, on two tiny photographs and a tiny network."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from self2self.model.contract import mask_specs
from self2self.model.masks import BoolArray, MaskMaker
from self2self.model.network import Self2SelfNet, initialise
from self2self.train.fit import StepMasks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("prefit", ROOT / "scripts" / "prefit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ENCODER_WIDTH", 4)
    monkeypatch.setattr(module, "DECODER_WIDTHS", (4, 4, 4, 4, 4))
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    return module


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 255, (130, 140, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def prefit(script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, output: Path, *extra: str) -> None:
    arguments = [str(folder), "-o", str(output), "--steps", "5", "--decay", "2", "--size", "64", *extra]
    monkeypatch.setattr(sys, "argv", ["prefit.py", *arguments])
    script.main()


@pytest.mark.parametrize("channels", ["3", "1"])
def test_continuing_gives_the_same_weights_as_never_stopping(
    script: ModuleType, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: str
) -> None:
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    prefit(script, monkeypatch, photographs, whole, "--channels", channels)

    loss = script.root_mean_square
    calls = 0

    def failing(*arguments: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(script, "root_mean_square", failing)
    with pytest.raises(KeyboardInterrupt):
        prefit(script, monkeypatch, photographs, stopped, "--channels", channels)
    monkeypatch.setattr(script, "root_mean_square", loss)
    prefit(script, monkeypatch, photographs, stopped, "--channels", channels)
    a, b = load_file(whole), load_file(stopped)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert {tensor.dtype for tensor in a.values()} == {torch.float16}
    assert a["head.weight"].shape[0] == int(channels)


def test_no_two_samples_share_masks(
    script: ModuleType, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Recorded(MaskMaker):
        def make(self, first: int, count: int) -> dict[str, BoolArray]:
            made.extend(range(first, first + count))
            return super().make(first, count)

    monkeypatch.setattr(script, "MaskMaker", Recorded)
    prefit(script, monkeypatch, photographs, tmp_path / "out.safetensors", "--batch", "2")
    assert len(set(made)) == len(made) == 5 * 2


def test_rate_warms_up_stays_and_falls_to_zero(script: ModuleType) -> None:
    rates = [script.learning_rate(step, 100, 1.0, 10, 20) for step in range(101)]
    assert rates[0] == 0.1
    assert set(rates[10:80]) == {1.0}
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0


def test_shares_of_every_mix_add_up_to_one(script: ModuleType) -> None:
    for noise_shares, crop_shares in script.MIXES.values():
        assert sum(noise_shares.values()) == pytest.approx(1)
        assert sum(crop_shares.values()) == pytest.approx(1)
        assert set(noise_shares) <= set(script.NOISES)


def test_bfloat16_changes_little(
    script: ModuleType, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, rounded = tmp_path / "exact.safetensors", tmp_path / "rounded.safetensors"
    prefit(script, monkeypatch, photographs, exact, "--channels", "1", "--noise", "micrographs")
    prefit(script, monkeypatch, photographs, rounded, "--channels", "1", "--noise", "micrographs", "--bfloat16")
    a, b = (torch.cat([tensor.flatten().float() for tensor in load_file(path).values()]) for path in (exact, rounded))
    assert 0 < (a - b).norm() < 0.05 * a.norm()


@pytest.mark.parametrize("channels", [3, 1])
def test_some_samples_have_values_outside_the_range(script: ModuleType, photographs: Path, channels: int) -> None:
    loaded = script.load_photographs([photographs], channels)
    count_outside = 0
    for seed in range(200):
        crop = script.sample_clean(loaded, 64, np.random.default_rng(seed))
        kind = list(script.GENERAL_NOISE)[seed % len(script.GENERAL_NOISE)]
        clean, noisy = script.with_noise(crop, kind, np.random.default_rng(seed))
        again = script.with_noise(crop, kind, np.random.default_rng(seed))
        assert (clean.shape, noisy.shape) == (crop.shape, crop.shape)
        assert (clean.dtype, noisy.dtype) == (np.float32, np.float32)
        assert np.array_equal([clean, noisy], again)
        count_outside += bool(noisy.min() < 0 or noisy.max() > 1)
    assert 5 <= count_outside <= 40


def test_grey_start_is_the_colour_network_on_equal_channels(script: ModuleType) -> None:
    colour = Self2SelfNet(3, 4, (4, 4, 4, 4, 4), 0.75)
    grey = Self2SelfNet(1, 4, (4, 4, 4, 4, 4), 0.75)
    initialise(colour, "kaiming", torch.Generator().manual_seed(0))
    grey.load_state_dict(script.grey_from_colour(colour.state_dict()))
    image = torch.rand(1, 1, 64, 64)
    one, *dropout = StepMasks(mask_specs(1, 4, (4,) * 5, 0.4, 0.25), (64, 64), 0, torch.device("cpu")).make(0)
    expected = colour(image.expand(1, 3, 64, 64), one.expand(1, 3, 64, 64), *dropout).mean(1, keepdim=True)
    assert torch.allclose(grey(image, one, *dropout), expected, atol=1e-5)


def test_folder_without_photographs_is_reported(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"no \.png photographs"):
        prefit(script, monkeypatch, tmp_path, tmp_path / "out.safetensors")
