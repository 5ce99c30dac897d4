"""The network in 8-bit integers, compared with the network in float32, on any CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.model.contract import MaskSpec
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.torch_cpu import int8_network
from self2self.runtime.engines.torch_cpu.bf16_network import WEIGHT_SETS, Layer
from self2self.runtime.engines.torch_cpu.calibration import ActivationRanges, calibration_tiles
from self2self.runtime.engines.torch_cpu.int8_layers import (
    LARGEST_WEIGHT,
    Int8Weights,
    Quantisation,
    _quantised_convolutions,
    quantised_weight_sets,
)
from self2self.runtime.engines.torch_cpu.int8_network import Int8Network, as_bytes
from self2self.runtime.engines.windows import in_turn
from self2self.runtime.model import Model
from tests.conftest import Fitted
from tests.runtime.single_passes import emulate_int8_convolutions, in_reverse_order, random_network, rms, tensors_for

SNAKE = [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (2, 0), (2, 1), (2, 2)]


@pytest.fixture(autouse=True)
def int8_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate_int8_convolutions(monkeypatch)


def masks_of(specs: tuple[MaskSpec, ...], size: tuple[int, int], index: int) -> list[torch.Tensor]:
    masks = MaskMaker(specs, dict(zip("HW", size, strict=True)), 3, channels_last=True).make(index, 1)
    return [torch.from_numpy(mask.copy(order="K")) for mask in masks.values()]


def picture(*size: int, seed: int = 5, channels: int = 3) -> torch.Tensor:
    return torch.rand((1, channels, *size), generator=torch.Generator().manual_seed(seed))


def use_exact_stem(int8: Int8Network) -> Int8Network:
    """Sum the first convolution, which is float32, in float64: then strips do not decide which byte a value becomes."""

    def exact(layer: Layer) -> Callable[[torch.Tensor], torch.Tensor]:
        weight, bias = layer.weight.double(), layer.bias.double()
        return lambda padded: torch.nn.functional.conv2d(padded.double(), weight, bias).float()

    feature, gate = int8._weights.stem
    int8._weights.stem = exact(feature), exact(gate)
    return int8


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 2, 10]), st.floats(-20, 20), st.integers(0, 2**31))
def test_weights_are_right_on_average_and_their_sums_in_each_set(
    outputs: int, inputs: int, sets: int, exponent: float, seed: int
) -> None:
    drawn = torch.randn((outputs, inputs, 3, 3), generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    weight_sets, step = quantised_weight_sets(drawn, sets)
    assert len(weight_sets) == sets
    exact = (drawn / step.view(-1, 1, 1, 1)).double()
    assert exact.abs().amax() <= LARGEST_WEIGHT * 1.0001
    for rounded in weight_sets:
        assert rounded.dtype == torch.int8
        # The error of a sum along the snake is below one step, and so is that of each weight.
        sums = sum((exact - rounded)[..., row, column] for row, column in SNAKE)
        assert torch.as_tensor(sums).abs().max() < 1.001
        assert (exact - rounded).abs().max() < 1.001
    mean = torch.stack(weight_sets).double().mean(dim=0)
    assert (mean - exact).abs().max() <= 2 / sets + 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("name", ["encoder.1", "decoder_first.2", "head"])
def test_the_bias_corrects_the_mean_of_the_rounding_error(name: str) -> None:
    """Where all pixels have the mean value, the result is right in each set, however the weights were rounded."""
    network, _ = random_network(4, 6)
    module = network.get_submodule(name)
    convolution = getattr(module, "conv", module)
    drawn = torch.Generator().manual_seed(2)
    inputs = convolution.weight.shape[1]
    convolution.bias.uniform_(-1, 1, generator=drawn)
    quantisation = Quantisation(
        0.1 + torch.rand(inputs, generator=drawn), torch.randint(0, 255, (inputs,), generator=drawn).float()
    )
    mean = torch.randn(inputs, generator=drawn)
    expected = convolution.weight.sum(dim=(2, 3)) @ mean + convolution.bias
    scale = 1.0 / network.decoder_keep if name.startswith("decoder") else 1.0
    for convolution_of_set in _quantised_convolutions(network, name, quantisation, mean, 3):
        bytes_of_mean = mean / (scale * quantisation.step) + quantisation.zero
        sums = convolution_of_set.weight.double().sum(dim=(2, 3)) @ bytes_of_mean.double()
        got = sums * convolution_of_set.scale + convolution_of_set.bias
        torch.testing.assert_close(got.float(), expected, rtol=1e-3, atol=1e-3)


def test_weights_of_zero_have_a_step() -> None:
    weight_sets, step = quantised_weight_sets(torch.zeros(2, 1, 3, 3))
    assert not torch.stack(weight_sets).any()
    assert (step > 0).all()


@given(st.floats(-50, 0, width=32), st.floats(0, 50, width=32), st.floats(0, 1, width=32))
def test_the_measured_range_fits_into_bytes_and_0_is_one_of_them(low: float, high: float, importance: float) -> None:
    ends = torch.tensor([low, -1.0]), torch.tensor([high, 1.0])
    quantisation = Quantisation.for_range(*ends, torch.tensor([importance, 1.0]))
    assert (quantisation.step > 0).all()
    for end in ends:
        byte = torch.round(end / quantisation.step) + quantisation.zero
        assert ((byte > 25 - 1e-3) & (byte < 230 + 1e-3)).all() or low == high == 0
    # The range of the important channel takes four fifths of the bytes; the rest is the margin for other masks.
    assert 0.75 * 255 < (ends[1] - ends[0])[1] / quantisation.step[1] < 0.85 * 255
    assert torch.equal(quantisation.zero, quantisation.zero.round())


def test_less_important_channels_have_coarser_steps() -> None:
    quantisation = Quantisation.for_range(-torch.ones(4), torch.ones(4), torch.tensor([1.0, 0.5, 0.1, 0.0]))
    assert (quantisation.step.diff() > 0).all()
    # The finest step is coarse enough for the range, and the coarsest one is limited.
    assert quantisation.step[0] * 255 > 2
    assert quantisation.step[3] < 6 * quantisation.step[0]


@pytest.mark.parametrize("removed", [False, True])
def test_floats_become_the_nearest_bytes(removed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a future PyTorch without `quantize_per_tensor`."""
    if removed:
        monkeypatch.delattr(torch, "quantize_per_tensor", raising=False)
    int8_network._silence_quantisation_warning()
    values = torch.tensor([-1e9, -0.6, 0.0, 0.4, 0.6, 99.51, 254.4, 255.4, 300.0, 1e9]).view(1, 10, 1, 1)
    got = as_bytes(values.contiguous(memory_format=torch.channels_last))
    assert got.dtype == torch.uint8
    assert got.flatten().tolist() == [0, 0, 0, 0, 1, 100, 254, 255, 255, 255]


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (64, 160), (96, 64)])
def test_a_pass_is_close_to_float32(size: tuple[int, int]) -> None:
    network, specs = random_network()
    image = picture(*size)
    int8 = Int8Network(network, image, specs, 1, in_turn)
    for index in (0, 7):
        masks = masks_of(specs, size, index)
        exact = network(image, *masks)
        assert rms(int8(masks, index, shared=False) - exact) < 0.04 * rms(exact - exact.mean())


@torch.inference_mode()
def test_the_mean_of_many_passes_has_almost_no_rounding_error() -> None:
    """Compared with float32, and with weights that are rounded once for all passes."""
    network, specs = random_network()
    image = picture(64, 64)
    passes = [masks_of(specs, (64, 64), index) for index in range(80)]

    def predictions(sets: int) -> torch.Tensor:
        int8 = Int8Network(network, image, specs, 1, in_turn, sets=sets)
        return torch.cat([int8(masks, index, shared=False) for index, masks in enumerate(passes)]).double()

    exact = torch.cat([network(image, *masks) for masks in passes]).double()
    dithered, once = predictions(WEIGHT_SETS) - exact, predictions(1) - exact
    assert rms(dithered.mean(dim=0)) < rms(dithered) / 4
    # The gain is smaller than in bfloat16: error diffusion and the corrected bias improve a single set, too.
    assert rms(dithered.mean(dim=0)) < 0.7 * rms(once.mean(dim=0))


@torch.inference_mode()
def test_passes_use_the_weight_sets_in_turn() -> None:
    network, specs = random_network()
    image = picture(64, 64)
    int8, masks = Int8Network(network, image, specs, 1, in_turn), masks_of(specs, (64, 64), 0)
    first = int8(masks, 0, shared=False)
    assert torch.equal(int8(masks, WEIGHT_SETS, shared=False), first)
    assert all(not torch.equal(int8(masks, index, shared=False), first) for index in range(1, WEIGHT_SETS))


@settings(max_examples=8)
@given(st.integers(2, 4), st.integers(2, 4), st.sampled_from([1, 500, 4_000, 60_000]), st.integers(1, 3))
def test_strips_and_threads_do_not_change_the_prediction(
    tiny: Fitted, tiny_model: Model, rows: int, columns: int, values: int, workers: int
) -> None:
    size = (32 * rows, 32 * columns)
    image, specs, masks = picture(*size), tiny.contract.masks, tensors_for(tiny_model, size, 0)
    with torch.inference_mode():
        whole = use_exact_stem(Int8Network(tiny.network, image, specs, 1, in_turn, 10**9, sets=1))
        int8 = use_exact_stem(Int8Network(tiny.network, image, specs, workers, in_reverse_order, values, sets=1))
        expected = whole(masks, 0, shared=False)
        strips = int8._strips(size[0], 6 * size[1])
        assert len(strips) > 1 or values > 4_000
        assert [strip.start for strip in strips] == [0, *(strip.stop for strip in strips[:-1])]
        assert strips[-1].stop == size[0]
        torch.testing.assert_close(int8(masks, 0, shared=True), expected, rtol=0, atol=0.05)
        torch.testing.assert_close(int8(masks, 0, shared=False), expected, rtol=0, atol=0.05)


@torch.inference_mode()
def test_tiles_share_the_layers_that_were_made_for_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = random_network()
    network.decoder_keep = 1.0
    whole = picture(150, 200)
    tiles = whole[..., :64, :96].contiguous(), whole[..., 64:128, 64:160].contiguous()
    int8 = Int8Network(network, tiles[0], (), 1, in_turn, whole=whole)
    calls = []
    original = int8_network.Int8Weights
    monkeypatch.setattr(int8_network, "Int8Weights", lambda *arguments: calls.append(1) or original(*arguments))
    int8.use_image(tiles[1], whole)
    assert not calls
    exact = network(tiles[1])
    assert rms(int8((), 0, shared=False) - exact) < 0.04 * rms(exact - exact.mean())
    int8.use_image(tiles[1], whole.clone())
    int8.use_image(tiles[1])
    assert len(calls) == 2


@torch.inference_mode()
def test_layers_are_made_again_for_another_image_but_not_for_a_mirrored_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network, specs = random_network(4, 6)
    first, second = picture(64, 96), 0.1 * picture(64, 96, seed=6)
    masks = masks_of(specs, (64, 96), 0)
    fresh = {name: Int8Network(network, image, specs, 1, in_turn) for name, image in (("1", first), ("2", second))}
    int8 = Int8Network(network, first, specs, 1, in_turn)
    calls = []
    original = int8_network.Int8Weights
    monkeypatch.setattr(int8_network, "Int8Weights", lambda *arguments: calls.append(1) or original(*arguments))
    for oriented in (first.flip(2), first.flip(3), first.flip(2, 3), first):
        int8.use_image(oriented.contiguous())
    assert not calls
    assert torch.equal(int8(masks, 1, shared=False), fresh["1"](masks, 1, shared=False))
    # A rolled image has the same values, but it is another image.
    for other in (first.roll(5, 3), second):
        calls.clear()
        int8.use_image(other)
        assert calls
    assert torch.equal(int8(masks, 1, shared=False), fresh["2"](masks, 1, shared=False))


@torch.inference_mode()
def test_an_image_whose_layers_could_not_be_made_can_be_used_later(monkeypatch: pytest.MonkeyPatch) -> None:
    network, specs = random_network(4, 6)
    first, second = picture(64, 64), 0.1 * picture(64, 64, seed=6)
    masks = masks_of(specs, (64, 64), 0)
    int8 = Int8Network(network, first, specs, 1, in_turn)
    before = int8(masks, 0, shared=False)

    def fail(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(int8_network, "Int8Weights", fail)
        int8.use_image(second)
    # The network still has the first image.
    assert torch.equal(int8(masks, 0, shared=False), before)
    int8.use_image(second)
    expected = Int8Network(network, second, specs, 1, in_turn)(masks, 0, shared=False)
    assert torch.equal(int8(masks, 0, shared=False), expected)


@torch.inference_mode()
def test_the_first_convolution_reads_the_unrounded_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 16-bit image is not rounded to bytes."""
    network, specs = random_network(4, 6)
    image = picture(64, 64)
    int8, masks = Int8Network(network, image, specs, 1, in_turn, 10**9), masks_of(specs, (64, 64), 0)
    inputs = []
    feature, gate = int8._weights.stem
    int8._weights.stem = (lambda padded: inputs.append(padded.clone()) or feature(padded), gate)
    int8(masks, 0, shared=False)
    (padded,) = inputs
    assert torch.equal(padded[:, :3, 1:-1, 1:-1], masks[0].float())
    assert torch.equal(padded[:, 3:, 1:-1, 1:-1], masks[0] * image)


@torch.inference_mode()
@pytest.mark.parametrize("image", [torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)])
def test_an_image_whose_pixels_are_all_equal(image: torch.Tensor) -> None:
    network, specs = random_network()
    masks = masks_of(specs, (64, 64), 0)
    exact = network(image, *masks)
    prediction = Int8Network(network, image, specs, 1, in_turn)(masks, 0, shared=False)
    assert rms(prediction - exact) < 0.04 * max(rms(exact), 1e-3)


@torch.inference_mode()
@pytest.mark.parametrize(("value", "count"), [(float("nan"), 1), (float("inf"), 1), (3e38, None)])
def test_weights_that_are_not_finite_give_nan(value: float, count: int | None) -> None:
    """So that a damaged model is reported. That includes finite weights whose activations overflow."""
    network, specs = random_network(4, 6)
    network.decoder_second[1].weight.view(-1)[:count] = value
    assert not Int8Weights(network, picture(64, 64), specs, 1).finite
    masks = masks_of(specs, (64, 64), 0)
    prediction = Int8Network(network, picture(64, 64), specs, 1, in_turn)(masks, 0, shared=False)
    assert prediction.shape == (1, 3, 64, 64)
    assert prediction.isnan().all()


@torch.inference_mode()
def test_ranges_equal_those_of_a_plain_pass(tiny: Fitted) -> None:
    """Masks keep everything here, so that all calibration passes are equal."""
    image = picture(64, 96)
    specs = tuple(MaskSpec(spec.name, spec.dims, 256) for spec in tiny.contract.masks)
    ranges = ActivationRanges(tiny.network, image, specs, ["stem", "decoder_first.4"])
    planes = torch.cat([torch.ones_like(image), image], dim=1)
    torch.testing.assert_close(ranges.means["stem"], planes.mean((0, 2, 3)), rtol=0, atol=1e-5)
    outputs = {}
    hook = tiny.network.decoder_first[4].register_forward_hook(lambda *call: outputs.update(result=call[2]))
    tiny.network(image, *(torch.ones(1, *spec.shape({"H": 64, "W": 96}), dtype=torch.bool) for spec in specs))
    hook.remove()
    for name, output in {"stem": tiny.network.stem(planes), "decoder_first.4": outputs["result"]}.items():
        if name != "stem":
            output = torch.where(output < 0, 0.2 * output, output)
        torch.testing.assert_close(ranges.low[name], output.amin((0, 2, 3)).clamp(max=0), rtol=0, atol=1e-4)
        torch.testing.assert_close(ranges.high[name], output.amax((0, 2, 3)).clamp(min=0), rtol=0, atol=1e-4)
    assert ranges.low["decoder_first.4"].min() < -0.01
    assert not tiny.network.stem._forward_hooks


@torch.inference_mode()
def test_sizes_equal_those_of_a_plain_pass(tiny: Fitted, tiny_model: Model) -> None:
    image = picture(64, 96)
    weights = Int8Weights(tiny.network, image, tiny.contract.masks, 1)
    sizes = {}

    def noting(name: str) -> Callable[..., None]:
        return lambda module, inputs, result: sizes.update({name: tuple(result.shape[2:])})

    modules = dict(tiny.network.named_modules())
    hooks = [modules[name].register_forward_hook(noting(name)) for name in weights.sizes if name in modules]
    tiny.network(image, *tensors_for(tiny_model, (64, 96), 0))
    for hook in hooks:
        hook.remove()
    assert {name: size for name, size in weights.sizes.items() if name in sizes} == sizes
    # Layers without weights are no modules.
    assert {name.rpartition(".")[2] for name in weights.sizes if name not in sizes} == {"pooled", "joined"}


@torch.inference_mode()
def test_calibration_of_a_large_image_uses_its_extreme_tiles() -> None:
    image = torch.full((1, 1, 1024, 1152), 0.5)
    image[..., 700, 900] = 1.0
    image[..., 300, 200] = 0.0
    image[..., 128:256, 1000:1100] += 0.1 * torch.rand(128, 100)
    tiles = calibration_tiles(image)
    assert len(tiles) == 16
    assert max(float(tile.max()) for tile in tiles) == 1.0
    assert min(float(tile.min()) for tile in tiles) == 0.0
    assert max(float(tile.std()) for tile in tiles) > 0.02
    assert all(tile.shape[2] % 32 == 0 and tile.shape[3] % 32 == 0 for tile in tiles)
    # All tiles of a smaller image are used.
    assert sum(tile.numel() for tile in calibration_tiles(image[..., :480, :416])) == 480 * 416


WARNINGS = """
import warnings
import torch
from tests.runtime.single_passes import random_network
from self2self.runtime.engines.torch_cpu.int8_network import Int8Network, as_bytes
from self2self.runtime.engines.windows import in_turn
network, specs = random_network(4, 6)
Int8Network(network, torch.rand(1, 3, 64, 64), specs, 1, in_turn)
warnings.simplefilter("error")
print(as_bytes(torch.ones(1)))
"""


def test_the_deprecation_warning_of_pytorch_does_not_reach_the_user() -> None:
    done = subprocess.run([sys.executable, "-W", "always", "-c", WARNINGS], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("tensor([1], dtype=torch.uint8)\n", "")
