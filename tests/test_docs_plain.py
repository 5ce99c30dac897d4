"""The programs in docs/plain.md run as they stand there, and compute what self2self computes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from self2self import EnsembleOptions, denoise_pixels, load_model
from self2self.export.plain import export_plain, finished_by_torch
from self2self.model.network import Self2SelfNet
from tests.commands import ROOT, picture, write_noisy
from tests.conftest import Fitted

PROGRAM, OPENCV_PROGRAM = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "plain.md").read_text(encoding="utf-8"), re.DOTALL
)


def test_the_program_denoises_without_self2self(tiny: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "self2self" not in re.sub(r'"self2self\.\w+"', "", PROGRAM)
    monkeypatch.chdir(tmp_path)
    network = Self2SelfNet(3, tiny.network.encoder_width, tiny.network.decoder_widths, 1.0)
    network.load_state_dict(tiny.network.state_dict())
    export_plain(network, tiny.contract.as_plain(), tmp_path / "plain.onnx")
    shutil.copy("plain.onnx", "model.plain.onnx")
    pixels = ((picture(write_noisy(tmp_path / "image.png")).transpose(2, 0, 1) - np.float32(3)) / 247).clip(0, 1)
    exec(PROGRAM, {})
    options = EnsembleOptions(engine="ort", flips=False, restore=False)
    expected = denoise_pixels(load_model("model.plain.onnx"), pixels, options).image
    assert np.abs(picture(Path("clean.png")).transpose(2, 0, 1) - (3 + expected * 247)).max() < 0.6


def test_the_program_for_opencv(tiny: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
    monkeypatch.chdir(tmp_path)
    network = Self2SelfNet(3, tiny.network.encoder_width, tiny.network.decoder_widths, 1.0)
    network.load_state_dict(tiny.network.state_dict())
    contract = tiny.contract.as_plain()
    export_plain(network, contract, tmp_path / "model.512x768.onnx", size=(512, 768))
    noisy = np.random.default_rng(0).integers(0, 256, (512, 768, 3), np.uint8)
    Image.fromarray(noisy).save("image.png")
    exec(OPENCV_PROGRAM, {})
    expected = 255 * finished_by_torch(network, contract, noisy.transpose(2, 0, 1)[None] / np.float32(255))[0]
    assert np.abs(picture(Path("clean.png")).transpose(2, 0, 1) - expected).max() < 0.6
