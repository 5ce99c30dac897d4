"""The program in docs/onnx.md runs as it stands there, and computes what self2self computes."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from self2self import EnsembleOptions, MaskMaker, denoise_pixels, load_model
from self2self.model.masks import Draws
from tests.commands import ROOT, picture, write_noisy

(PROGRAM,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8"), re.DOTALL)
PASSES = 50


class SameMasks:
    """Stands in for the program's generator: numbers that make the masks of self2self."""

    def __init__(self, model: Path) -> None:
        maker = MaskMaker(load_model(model).contract.masks, {"H": 64, "W": 96}, seed=0, draws=Draws.PAIRED)
        self._masks: Iterator[NDArray[np.bool_]] = (
            mask for index in range(PASSES) for mask in maker.make(index, 1).values()
        )

    def random(self, shape: tuple[int, ...], dtype: type) -> NDArray[np.float32]:
        mask = next(self._masks)
        assert mask.shape == shape
        return np.where(mask, 0, 1).astype(dtype)


def test_the_program_averages_passes_without_self2self(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "import self2self" not in PROGRAM
    assert "from self2self" not in PROGRAM
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_onnx, "model.onnx")
    low, high = np.float32(3), np.float32(250)
    pixels = ((picture(write_noisy(tmp_path / "image.png")).transpose(2, 0, 1) - low) / (high - low)).clip(0, 1)
    exec(PROGRAM, {})
    by_chance = picture(Path("clean.png"))
    assert by_chance.shape == (64, 70, 3)
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda seed: SameMasks(tiny_onnx))
        exec(PROGRAM, values := {"passes": 0})
    assert values["passes"] == PASSES
    options = EnsembleOptions(engine="ort", passes=PASSES, balanced=False, flips=False, restore=False)
    expected = denoise_pixels(load_model("model.onnx"), pixels, options).image
    np.testing.assert_allclose(values["clean"], expected, atol=1e-4)
    assert np.abs(picture(Path("clean.png")).transpose(2, 0, 1) - (low + expected * (high - low))).max() < 0.6
    assert not np.array_equal(by_chance, picture(Path("clean.png")))
