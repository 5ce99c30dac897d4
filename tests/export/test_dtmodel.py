"""Model packages for darktable."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from self2self.errors import UsageError
from self2self.export import dtmodel
from self2self.export.dtmodel import export_dtmodel
from self2self.export.plain import finished_by_torch
from self2self.model.network import Self2SelfNet
from tests.conftest import Fitted

MakeFitted = Callable[..., Fitted]


def plain_of(fitted: Fitted) -> Fitted:
    network = Self2SelfNet(fitted.contract.channels, fitted.network.encoder_width, fitted.network.decoder_widths, 1.0)
    network.load_state_dict(fitted.network.state_dict())
    return Fitted(network, fitted.contract.as_plain())


def test_a_package_denoises_values_from_black_to_white(
    make_fitted: MakeFitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtmodel, "TILE", 96)
    plain, path = plain_of(make_fitted(3)), tmp_path / "a.dtmodel"
    export_dtmodel(plain.network, plain.contract, path, "my-camera", (0.25, 0.75))
    with zipfile.ZipFile(path) as package:
        assert package.namelist() == ["denoise-my-camera/config.json", "denoise-my-camera/model.onnx"]
        config = json.loads(package.read("denoise-my-camera/config.json"))
        data = package.read("denoise-my-camera/model.onnx")
    assert {key: config[key] for key in ("id", "task", "backend", "num_inputs")} == {
        "id": "denoise-my-camera",
        "task": "denoise",
        "backend": "onnx",
        "num_inputs": 1,
    }
    assert config["attributes"]["input_sizes"] == [96]
    model = onnx.load_model_from_string(data)
    assert model.opset_import[0].version == 20
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 96, 96]
    image = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    (denoised,) = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"image": image})
    inner = finished_by_torch(plain.network, plain.contract, np.clip(2 * image - 0.5, 0, 1))
    np.testing.assert_allclose(denoised, 0.25 + 0.5 * inner, atol=1e-5)


def test_grey_networks_are_refused(make_fitted: MakeFitted, tmp_path: Path) -> None:
    plain = plain_of(make_fitted(1))
    with pytest.raises(UsageError, match="--format dtmodel is for RGB images; this fit has 1 channel"):
        export_dtmodel(plain.network, plain.contract, tmp_path / "a.dtmodel", "grey")
