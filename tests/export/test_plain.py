"""Plain models: one image in, the finished image out, for any program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from self2self.errors import FileFormatError, UsageError, VerificationError
from self2self.export.plain import build_plain_model, export_plain
from self2self.model.contract import Contract
from self2self.model.network import Self2SelfNet
from self2self.runtime.engines.registry import engine_class
from self2self.runtime.model import load_model
from tests.conftest import Fitted

MakeFitted = Callable[..., Fitted]


@pytest.fixture(scope="module")
def plain(make_fitted: MakeFitted) -> Fitted:
    fitted = make_fitted(3)
    network = Self2SelfNet(3, fitted.network.encoder_width, fitted.network.decoder_widths, 1.0)
    network.load_state_dict(fitted.network.state_dict())
    return Fitted(network, replace(fitted.contract.as_plain(), noisy_share=0.25))


def expected_of(fitted: Fitted, image: np.ndarray) -> np.ndarray:
    """The finished image by NumPy's padding and a network whose masks are all true."""
    height, width = image.shape[2:]
    sides = [max(64, -(-side // 32) * 32) - side for side in (height, width)]
    pads = [(0, 0), (0, 0), *((added // 2, added - added // 2) for added in sides)]
    padded = torch.from_numpy(np.pad(image, pads, mode="reflect"))
    axes = dict(zip("HW", padded.shape[2:], strict=True))
    masks = [torch.ones((len(image), *spec.shape(axes)), dtype=torch.bool) for spec in fitted.contract.masks]
    with torch.no_grad():
        prediction = fitted.network(padded, *masks).numpy()
    (top, _), (left, _) = pads[2:]
    cut = prediction[:, :, top : top + height, left : left + width]
    return np.clip(0.75 * cut + 0.25 * image, 0, 1)


@pytest.mark.parametrize("shape", [(1, 96, 64), (3, 33, 70), (2, 1, 2), (1, 20, 129)])
def test_any_size_and_batch(plain: Fitted, tmp_path: Path, shape: tuple[int, int, int]) -> None:
    path = tmp_path / "plain.onnx"
    checked = export_plain(plain.network, plain.contract, path)
    assert checked.max_difference < 1e-4
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["image"]
    count, height, width = shape
    image = np.random.default_rng(1).random((count, 3, height, width), dtype=np.float32)
    (denoised,) = session.run(["denoised"], {"image": image})
    np.testing.assert_allclose(denoised, expected_of(plain, image), atol=1e-5)


def test_a_fixed_size_needs_no_computed_shapes(plain: Fitted, tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    export_plain(plain.network, plain.contract, path, size=(50, 70))
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[2:] == [50, 70]
    image = np.random.default_rng(1).random((1, 3, 50, 70), dtype=np.float32)
    np.testing.assert_allclose(session.run(None, {"image": image})[0], expected_of(plain, image), atol=1e-5)
    operators = {node.op_type for node in build_plain_model(plain.network, plain.contract, (50, 70)).graph.node}
    assert not operators & {"Shape", "Range", "Mod"}


def test_half_precision_is_within_a_grey_level(plain: Fitted, tmp_path: Path) -> None:
    path = tmp_path / "plain.fp16.onnx"
    checked = export_plain(plain.network, replace(plain.contract, precision="fp16"), path)
    assert 1e-6 < checked.max_difference < 1 / 255
    (image,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()
    assert image.type == "tensor(float)"


def test_bfloat16_is_refused(plain: Fitted) -> None:
    with pytest.raises(UsageError, match="--precision is bf16; plain models have fp32 or fp16"):
        build_plain_model(plain.network, replace(plain.contract, precision="bf16"))


def test_a_file_that_computes_something_else_is_found(plain: Fitted, make_fitted: MakeFitted, tmp_path: Path) -> None:
    other = make_fitted(3, seed=1)
    network = Self2SelfNet(3, other.network.encoder_width, other.network.decoder_widths, 1.0)
    network.load_state_dict(other.network.state_dict())
    from self2self.export.plain import verify_plain

    path = tmp_path / "plain.onnx"
    export_plain(plain.network, plain.contract, path)
    with pytest.raises(VerificationError, match="differ from PyTorch's"):
        verify_plain(network, plain.contract, path)


@pytest.mark.parametrize("engine", ["ort", "mnn", "torch"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("size", [(64, 96), (160, 192)])
def test_engines_run_the_core(
    plain: Fitted, tmp_path: Path, engine: str, precision: str, size: tuple[int, int]
) -> None:
    path = tmp_path / "plain.onnx"
    export_plain(plain.network, replace(plain.contract, precision=precision), path)
    image = np.random.default_rng(2).random((1, 3, *size), dtype=np.float32)
    with torch.no_grad():
        expected = plain.network(torch.from_numpy(image)).numpy()
    with engine_class(engine)(load_model(path), image) as running:
        prediction = running.run({})
        np.testing.assert_allclose(prediction, expected, atol=1e-4 if precision == "fp32" else 1e-2)
        running.set_image(image[..., ::-1])
        assert np.abs(running.run({}) - expected).max() > 1e-2


def test_the_contract_survives_the_file(plain: Fitted, tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    export_plain(plain.network, plain.contract, path)
    contract = load_model(path).contract
    assert contract == plain.contract
    assert contract.plain
    assert contract.input_names() == ["image"]


def test_a_plain_model_whose_masks_drop_something_is_damaged(plain: Fitted) -> None:
    wrong = replace(plain.contract, masks=(replace(plain.contract.masks[0], keep_count=100),))
    with pytest.raises(FileFormatError, match="masks of a plain model"):
        Contract.from_metadata(wrong.to_metadata(), "plain.onnx")


def test_a_rewritten_graph_is_refused(plain: Fitted, tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    model = build_plain_model(plain.network, plain.contract)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = "other" if name == "prediction" else name
        node.name = "other" if node.name == "prediction" else node.name
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="its graph is not what its metadata promise"):
        load_model(path)
