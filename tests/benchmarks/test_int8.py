"""The benchmark of INT8: quantised convolutions and calibration data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.int8 import DECODER_WEIGHTS, FIRST_CALIBRATION_PASS, VARIANTS, MaskedInputs, convolutions, quantise
from self2self.export.verify import open_session
from self2self.model.contract import IMAGE, PREDICTION
from self2self.model.masks import MaskMaker
from tests.conftest import Fitted


def maker_of(tiny: Fitted) -> MaskMaker:
    return MaskMaker(tiny.contract.masks, {"H": 64, "W": 64}, 0)


def test_it_is_calibrated_on_the_image_with_real_masks(tiny: Fitted) -> None:
    image = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)
    inputs = MaskedInputs(image, maker_of(tiny), 2)
    # MaskMaker reuses its buffers, so the inputs of a pass are checked before the next pass.
    for index in range(2):
        feed = inputs.get_next()
        assert feed is not None
        assert np.array_equal(feed[IMAGE][0], image)
        for name, mask in maker_of(tiny).make(FIRST_CALIBRATION_PASS + index, 1).items():
            assert np.array_equal(feed[name], mask)
    assert inputs.get_next() is None


def test_the_full_resolution_convolutions_become_integers(tiny: Fitted, tiny_onnx: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)
    names = convolutions(tiny_onnx, DECODER_WEIGHTS)
    quantise(VARIANTS[0], tiny_onnx, tmp_path / "int8.onnx", MaskedInputs(image, maker_of(tiny), 2))
    model = onnx.load(tmp_path / "int8.onnx")
    made = {output: node for node in model.graph.node for output in node.output}
    fed = {node.name: made[node.input[1]].op_type for node in model.graph.node if node.name in names}
    assert fed == dict.fromkeys(names, "DequantizeLinear")
    assert sum(node.op_type == "Conv" and node.name not in names for node in model.graph.node) > 10
    feed = {IMAGE: image[None], **maker_of(tiny).make(0, 1)}
    wide, narrow = (open_session(path).run([PREDICTION], feed)[0] for path in (tiny_onnx, tmp_path / "int8.onnx"))
    difference = np.sqrt(np.mean((wide - narrow) ** 2)) / np.abs(wide).max()
    assert 1e-4 < difference < 3e-2


def test_weights_that_are_not_there(tiny_onnx: Path) -> None:
    with pytest.raises(ValueError, match="1 convolutions with the weights"):
        convolutions(tiny_onnx, ("head.weight", "tail.weight"))
