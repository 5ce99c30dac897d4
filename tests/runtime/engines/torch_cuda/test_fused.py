"""The network with fused operations, compared with the plain network; the kernels are compiled for the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from self2self.errors import EngineUnavailableError
from self2self.export.to_onnx import to_onnx
from self2self.model.contract import mask_specs
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.torch_cpu.reference import TorchEngine
from self2self.runtime.engines.torch_cuda.fused import kernel_macros
from self2self.runtime.engines.torch_cuda.nvrtc import Kernels, Launcher
from self2self.runtime.model import Model, load_model
from tests.conftest import Fitted, MakeFitted
from tests.runtime.kernels_on_the_cpu import TorchOnTheCpu, needs_compiler

pytestmark = needs_compiler

WIDTHS = {
    "eights": {"encoder_width": 8, "decoder_widths": (16, 8, 24, 8, 16)},
    "fours": {"encoder_width": 4, "decoder_widths": (8, 12, 8, 8, 4)},
    "odd": {"encoder_width": 3, "decoder_widths": (5, 4, 3, 2, 7)},
    "grey": {"channels": 1, "encoder_width": 8, "decoder_widths": (8,) * 5},
    "CMYK": {"channels": 4, "encoder_width": 2, "decoder_widths": (4, 2, 4, 2, 4)},
}


@pytest.fixture(scope="module", params=list(WIDTHS))
def fitted(request: pytest.FixtureRequest, make_fitted: MakeFitted) -> Fitted:
    result = make_fitted(**WIDTHS[request.param])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in result.network.parameters():
            # If all biases were zero, the test would not notice that one is missing.
            parameter.normal_(0, 0.3 if parameter.ndim == 1 else 1 / parameter[0].numel() ** 0.5, generator=generator)
    return result


def exported(fitted: Fitted, folder: Path, precision: str = "fp32") -> Model:
    path = folder / f"{precision}.onnx"
    to_onnx(fitted.network, replace(fitted.contract, precision=precision), path)
    return load_model(path)


@pytest.fixture(scope="module")
def model(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return exported(fitted, tmp_path_factory.mktemp("fused"))


def picture(model: Model, size: tuple[int, int]) -> FloatArray:
    return np.random.default_rng(3).random((1, model.contract.channels, *size), dtype=np.float32)


# With 64 rows the deepest level has two, and both are next to the padding.
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (160, 64)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_predictions_equal_those_of_the_network(model: Model, size: tuple[int, int]) -> None:
    image = picture(model, size)
    maker = MaskMaker(model.contract.masks, dict(zip("HW", size, strict=True)), 0)
    with TorchOnTheCpu(model, image) as running, TorchEngine(model, image) as reference:
        assert running._fused is not None
        for first, count in ((0, 1), (1, 3)):
            masks = maker.make(first, count)
            got, expected = running.run(masks), reference.run(masks)
            assert got.flags.c_contiguous
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * scale)
        running.set_image(1 - image)
        reference.set_image(1 - image)
        np.testing.assert_allclose(running.run(masks), reference.run(masks), rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("fitted", ["eights", "odd"], indirect=True)
def test_predictions_in_half_precision(fitted: Fitted, model: Model, tmp_path: Path) -> None:
    model, wide = exported(fitted, tmp_path, "fp16"), model
    image = picture(model, (64, 64))
    masks = MaskMaker(model.contract.masks, {"H": 64, "W": 64}, 0).make(0, 2)
    with TorchOnTheCpu(model, image) as running, TorchEngine(wide, image) as reference:
        got, expected = running.run(masks), reference.run(masks)
    scale = max(1.0, float(np.abs(expected).max()))
    difference = np.abs(got - expected).max()
    assert 0 < difference <= 5e-3 * scale


def test_without_kernels_passes_run_operator_by_operator(tiny_model: Model) -> None:
    class Without(TorchOnTheCpu):
        def _kernels(self, macros: Mapping[str, int]) -> Launcher:
            raise EngineUnavailableError("cuda-bindings does not load (gone).")

    image = picture(tiny_model, (64, 64))
    masks = MaskMaker(tiny_model.contract.masks, {"H": 64, "W": 64}, 0).make(0, 2)
    notes: list[str] = []
    running = Without(tiny_model, image)
    running.note = notes.append
    with running, TorchEngine(tiny_model, image) as reference:
        np.testing.assert_allclose(running.run(masks), reference.run(masks), rtol=0, atol=1e-5)
        running.set_image(1 - image)
        reference.set_image(1 - image)
        np.testing.assert_allclose(running.run(masks), reference.run(masks), rtol=0, atol=1e-5)
    assert notes == [
        "cuda-bindings does not load (gone). Passes run operator by operator, which takes several times as long."
    ]


def test_the_channel_group_of_a_thread_divides_all_widths(fitted: Fitted) -> None:
    network = fitted.network
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        group = kernel_macros(network, dtype)["V"]
        specs = mask_specs(network.channels, network.encoder_width, network.decoder_widths, 0.1, 0.4)
        assert all(spec.shape({"H": 64, "W": 64})[0] % group == 0 for spec in specs[1:])
    assert set(kernel_macros(network, torch.bfloat16)) == {"V", "T_BFLOAT16"}
    assert set(kernel_macros(network, torch.float32)) == {"V"}


def test_missing_bindings_are_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("self2self.runtime.engines.torch_cuda.nvrtc.import_module", missing)
    with pytest.raises(
        EngineUnavailableError, match=r"cuda-bindings does not load \(No module named .*pip install 'cuda-bindings==1"
    ):
        Kernels("", {})
