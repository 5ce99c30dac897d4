"""The program in docs/plain.md runs as it stands there, and computes what self2self computes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from self2self import EnsembleOptions, denoise_pixels, load_model
from self2self.export.plain import export_plain
from self2self.model.network import Self2SelfNet
from tests.commands import ROOT, picture, write_noisy
from tests.conftest import Fitted

(PROGRAM,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plain.md").read_text(encoding="utf-8"), re.DOTALL)


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
