"""Half precision: the graph computes in the type and keeps its interface, and bad results are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from self2self.errors import FileFormatError, InputError, UsageError, VerificationError
from self2self.export import precision as under_test
from self2self.export.precision import ACCEPTED_DECIBELS, compare, export_in_precision, middle
from self2self.export.rounding_loss import bounded_loss, signed_residual
from self2self.export.to_onnx import _fix_size, host_copy, to_onnx
from self2self.export.verify import open_session
from self2self.model.contract import PREDICTION, Contract
from self2self.model.masks import MaskMaker
from self2self.model.network import Self2SelfNet
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.registry import engine_class
from self2self.runtime.model import load_model
from tests.conftest import Fitted
from tests.export.test_verify import watched_shapes
from tests.export.traced import InPrecision

ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def exported(tiny: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Exports the tiny network in a precision; each precision is exported once."""
    folder = tmp_path_factory.mktemp("precision")

    def export(precision: str) -> Path:
        path = folder / f"model.{precision}.onnx"
        if not path.exists():
            to_onnx(tiny.network, replace(tiny.contract, precision=precision), path)
        return path

    return export


def picture(size: tuple[int, int] = (70, 90), seed: int = 3) -> FloatArray:
    return np.random.default_rng(seed).random((3, *size), dtype=np.float32)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_graph_computes_in_the_type_and_keeps_its_interface(
    precision: str, tiny: Fitted, tiny_onnx: Path, exported: Callable[[str], Path]
) -> None:
    path = exported(precision)
    model = load_model(path)
    assert model.contract == replace(tiny.contract, precision=precision)
    graph, wide = onnx.load(path).graph, onnx.load(tiny_onnx).graph
    # Inputs and outputs are exactly those of the float32 graph.
    assert list(graph.input) == list(wide.input)
    assert list(graph.output) == list(wide.output)
    weights = {entry.name: entry for entry in graph.initializer}
    state = tiny.network.state_dict()
    assert set(state) <= set(weights)
    assert {weights[name].data_type for name in state} == {ELEMENT[precision]}
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    for node in graph.node:
        if node.op_type in ("Conv", "LeakyRelu", "Sigmoid", "Concat", "MaxPool", "Resize", "Mul"):
            assert types[node.output[0]] == ELEMENT[precision], node.op_type


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_are_those_of_the_network_rounded(
    precision: str, tiny: Fitted, exported: Callable[[str], Path]
) -> None:
    graph = onnx.load(exported(precision)).graph
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    for entry in graph.initializer:
        if entry.name in tiny.network.state_dict():
            expected = tiny.network.state_dict()[entry.name].to(dtype).float().numpy()
            assert np.array_equal(onnx.numpy_helper.to_array(entry).astype(np.float32), expected)


@pytest.mark.parametrize("name", ["ort", "torch"])
def test_engines_run_fp16(name: str, tiny: Fitted, exported: Callable[[str], Path]) -> None:
    model = load_model(exported("fp16"))
    image = picture((64, 96))[None]
    masks = MaskMaker(model.contract.masks, {"H": 64, "W": 96}, 0).make(0, 2)
    with torch.no_grad():
        expected = tiny.network(torch.from_numpy(image), *map(torch.from_numpy, masks.values())).numpy()
    with engine_class(name)(model, image) as running:
        got = running.run(masks)
    assert got.dtype == np.float32
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    # The difference is not zero, because at least the weights are rounded.
    assert 1e-6 < difference < 5e-3


def test_the_bf16_graph_with_wider_numbers_is_the_network(tiny: Fitted, exported: Callable[[str], Path]) -> None:
    path = exported("bf16")
    assert onnx.load(path).opset_import[0].version == 22
    rounded = Self2SelfNet(3, 4, (6, 6, 6, 4, 4), tiny.network.decoder_keep)
    rounded.load_state_dict({k: v.bfloat16().float() for k, v in tiny.network.state_dict().items()})
    image = picture((64, 64))[None]
    masks = MaskMaker(tiny.contract.masks, {"H": 64, "W": 64}, 0).make(0, 2)
    with torch.no_grad():
        expected = rounded(torch.from_numpy(image), *map(torch.from_numpy, masks.values())).numpy()
    got = open_session(path, as_float=True).run([PREDICTION], {"image": image, **masks})[0]
    # The dropout scale 1/keep is a constant of the graph and is rounded as well.
    assert np.abs(got - expected).max() < 2e-2 * np.abs(expected).max()


def test_the_ort_engine_refuses_bf16(exported: Callable[[str], Path]) -> None:
    with pytest.raises(FileFormatError, match=r"model\.bf16\.onnx: .*bf16.*--precision fp16"):
        engine_class("ort")(load_model(exported("bf16")), picture((64, 64))[None]).__enter__()


def test_the_ensembles_are_compared_on_the_same_masks(tiny: Fitted, exported: Callable[[str], Path]) -> None:
    contract = replace(tiny.contract, precision="fp16")
    pixels = picture()
    check = compare(tiny.network, contract, exported("fp16"), pixels, passes=2)
    assert (check.against, check.passes) == ("estimate", 2)
    # The expected numbers: each ensemble computed directly by its engine.
    noisy = middle(pixels, (64, 64))
    masks = MaskMaker(tiny.contract.masks, {"H": 64, "W": 64}, tiny.contract.seed).make(0, 2)

    rounded = under_test._rounded_runner(host_copy(tiny.network), torch.float16)

    def means_of(image: FloatArray) -> list[FloatArray]:
        with torch.no_grad():
            wide = tiny.network(torch.from_numpy(image[None]), *map(torch.from_numpy, masks.values()))
        with engine_class("ort")(load_model(exported("fp16")), image[None]) as running:
            halves = running.run(masks), rounded({"image": image[None], **masks})
        return [values.mean(axis=0) for values in (wide.numpy(), *halves)]

    means = means_of(noisy)
    *differences, noise = (255 * np.sqrt(np.mean((means[0] - other) ** 2)) for other in (*means[1:], noisy))
    assert check.rms_difference == pytest.approx(max(differences), rel=0.05)
    assert check.noise == pytest.approx(noise, rel=1e-3)
    added = signed_residual(noisy, means[0], tiny.contract.seed)
    again = means_of(means[0] + added)
    bounds = [bounded_loss(noisy, (means[0], means[i]), added, (again[0], again[i])).bound for i in (1, 2)]
    assert check.decibels == pytest.approx(max(bounds), rel=0.1)
    assert check.largest_number == 65504
    clean = np.clip(picture(seed=4), 0, 1)
    against = compare(tiny.network, contract, exported("fp16"), pixels, passes=2, reference=clean)
    errors = [np.sqrt(np.mean((np.clip(mean, 0, 1) - middle(clean, (64, 64))) ** 2)) for mean in means]
    assert against.against == "reference"
    changes = [abs(20 * np.log10(error / errors[0])) for error in errors[1:]]
    assert against.decibels == pytest.approx(max(changes), abs=1e-4)


def test_bf16_is_judged_by_the_same_arithmetic_as_pytorchs_own(tiny: Fitted) -> None:
    image = torch.from_numpy(picture((64, 64))[None])
    masks = MaskMaker(tiny.contract.masks, {"H": 64, "W": 64}, 0).make(0, 1)
    with torch.no_grad():
        wide = tiny.network(image, *map(torch.from_numpy, masks.values())).numpy()
        module = InPrecision(host_copy(tiny.network), torch.bfloat16).eval()
        expected = module(image, *map(torch.from_numpy, masks.values())).numpy()
    got = under_test._rounded_runner(host_copy(tiny.network), torch.bfloat16)({"image": image.numpy(), **masks})
    rounding = np.sqrt(np.mean((expected - wide) ** 2))
    assert rounding > 1e-3 * np.abs(wide).max()
    # Sums in another order sometimes round to the other neighbour, which matters far less than the rounding itself.
    assert np.sqrt(np.mean((got - expected) ** 2)) < 0.3 * rounding
    assert np.array_equal(got, torch.from_numpy(got).bfloat16().float().numpy())


def test_large_activations_are_refused(tiny: Fitted, exported: Callable[[str], Path]) -> None:
    network = Self2SelfNet(3, 4, (6, 6, 6, 4, 4), tiny.network.decoder_keep)
    network.load_state_dict(tiny.network.state_dict())
    with torch.no_grad():
        network.decoder_first[0].weight.mul_(2e5)
        network.decoder_second[0].weight.div_(2e5)
    with pytest.raises(
        VerificationError, match=r"activations reach .*, and the largest fp16 number is 65504\. Use fp32"
    ):
        # The file has the unchanged network, whose predictions are correct.
        compare(network, replace(tiny.contract, precision="fp16"), exported("fp16"), picture(), passes=1)


@pytest.mark.parametrize("activation", [40_000.0, float("inf"), float("nan")])
def test_twice_the_largest_activation_must_fit_into_the_type(
    activation: float, tiny: Fitted, exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_record_largest_activation", lambda network: lambda: activation)
    with pytest.raises(VerificationError, match="the largest fp16 number is 65504"):
        compare(tiny.network, replace(tiny.contract, precision="fp16"), exported("fp16"), picture(), passes=1)


def test_numbers_that_are_not_finite_in_the_file_alone_are_found(
    tiny: Fitted, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    model = onnx.load(exported("fp16"))
    (head,) = (entry for entry in model.graph.initializer if entry.name == "head.weight")
    head.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(head.dims), np.inf, np.float16), head.name))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(VerificationError, match="the largest fp16 number is 65504"):
        compare(tiny.network, replace(tiny.contract, precision="fp16"), path, picture(), passes=1)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (False, r"may change the PSNR by up to .* dB .* expected at most 0.02 dB.*judge it by a clean image"),
        (True, r"changes the PSNR by .* dB .* expected at most 0.02 dB. Use fp32\.$"),
    ],
)
def test_a_result_that_is_not_good_enough_is_refused(
    reference: bool,
    text: str,
    tiny: Fitted,
    exported: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ACCEPTED_DECIBELS == 0.02
    # Building the model again would take most of the time.
    monkeypatch.setattr(under_test, "build_model", lambda *_: onnx.load(exported("bf16")))
    path = tmp_path / "model.bf16.onnx"
    noisy = picture((64, 64))
    # The float32 ensemble equals the clean image, so the error in bf16 consists of rounding alone.
    masks = MaskMaker(tiny.contract.masks, {"H": 64, "W": 64}, tiny.contract.seed).make(0, under_test.COMPARED_PASSES)
    with torch.no_grad():
        mean = tiny.network(torch.from_numpy(noisy[None]), *map(torch.from_numpy, masks.values())).mean(0).numpy()
    clean = np.clip(mean, 0, 1) if reference else None
    with pytest.raises(VerificationError, match=text):
        export_in_precision(tiny.network, tiny.contract, path, "bf16", noisy, reference=clean)
    assert not path.exists()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_large_fixed_size_is_run_once_and_not_by_the_ensembles(
    precision: str, tiny: Fitted, exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from self2self.export import verify as verify_module

    model = onnx.load(exported(precision))
    _fix_size(model.graph, tiny.contract, (192, 160))
    monkeypatch.setattr(under_test, "build_model", lambda *_: model)
    shapes = watched_shapes(verify_module, monkeypatch)
    path = tmp_path / "fixed.onnx"
    pixels = np.clip(picture((70, 90)), 0, 1)
    _, check = export_in_precision(
        tiny.network, tiny.contract, path, precision, pixels, reference=1 - pixels, size=(192, 160)
    )
    assert load_model(path).size == (192, 160)
    assert shapes == [(3, 3, 96, 64), (1, 3, 192, 160)]
    # The check equals that of the same file without a fixed size: both use 64x64 pixels of the image.
    lower = replace(tiny.contract, precision=precision)
    assert check == compare(tiny.network, lower, exported(precision), pixels, reference=1 - pixels)


def test_wrong_precision_names_and_references_are_refused(tiny: Fitted, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--precision is 'int8'; expected one of: fp32, fp16, bf16"):
        export_in_precision(tiny.network, tiny.contract, tmp_path / "m.onnx", "int8", picture())
    with pytest.raises(InputError, match="expected the same"):
        export_in_precision(
            tiny.network, tiny.contract, tmp_path / "m.onnx", "fp16", picture(), reference=picture((64, 64))
        )


def test_an_unknown_precision_in_a_file_is_a_format_error(tiny: Fitted) -> None:
    metadata = tiny.contract.to_metadata() | {"self2self.precision": '"int8"'}
    with pytest.raises(FileFormatError, match="precision 'int8'"):
        Contract.from_metadata(metadata, "m.onnx")


def test_the_middle_of_an_image() -> None:
    pixels = np.arange(2 * 6 * 4, dtype=np.float32).reshape(2, 6, 4)
    assert np.array_equal(middle(pixels, (2, 2)), pixels[:, 2:4, 1:3])
    assert middle(pixels, (8, 8)).shape == (2, 8, 8)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_rtx_builds_it(precision: str, exported: Callable[[str], Path]) -> None:
    pytest.importorskip("tensorrt_rtx")
    from self2self.runtime.engines.profiles import Profile
    from self2self.runtime.engines.tensorrt.builder import TENSORRT_RTX, build
    from self2self.runtime.engines.tensorrt.cache import request_for

    path = exported(precision)
    contract = load_model(path).contract
    profile = Profile.fixed((64, 64), (1, 2, 2))
    request = request_for(TENSORRT_RTX, path, contract, profile)
    assert request.key.precision == precision
    assert request.engine_path.name.startswith(f"model.{precision}.trt-rtx.")
    assert len(build(TENSORRT_RTX, path.read_bytes(), profile.shapes(contract), source="m").data) > 10_000
