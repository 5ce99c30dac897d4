"""The network in integers of 8 bits, against the network in float32; on any CPU."""

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
from self2self.runtime.engines.torch_cpu import int8_network as integers
from self2self.runtime.engines.torch_cpu.bf16_network import SETS
from self2self.runtime.engines.torch_cpu.calibration import ActivationRanges, calibration_tiles
from self2self.runtime.engines.torch_cpu.int8_layers import (
    LARGEST_WEIGHT,
    Int8Weights,
    Quantisation,
    _rounded,
    rounded_weights,
)
from self2self.runtime.engines.torch_cpu.int8_network import Int8Network, as_bytes
from self2self.runtime.engines.windows import in_turn
from self2self.runtime.model import Model
from tests.conftest import Fitted
from tests.runtime.single_passes import drawn_network, integers_anywhere, one_after_the_other, rms, tensors_for

SNAKE = [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (2, 0), (2, 1), (2, 2)]


@pytest.fixture(autouse=True)
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    integers_anywhere(monkeypatch)


def masks_of(specs: tuple[MaskSpec, ...], size: tuple[int, int], index: int) -> list[torch.Tensor]:
    made = MaskMaker(specs, dict(zip("HW", size, strict=True)), 3, channels_last=True).make(index, 1)
    return [torch.from_numpy(mask.copy(order="K")) for mask in made.values()]


def picture(*size: int, seed: int = 5, channels: int = 3) -> torch.Tensor:
    return torch.rand((1, channels, *size), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 2, 10]), st.floats(-20, 20), st.integers(0, 2**31))
def test_weights_are_right_over_all_sets_and_their_sums_in_each(
    outputs: int, inputs: int, sets: int, exponent: float, seed: int
) -> None:
    drawn = torch.randn((outputs, inputs, 3, 3), generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    made, step = rounded_weights(drawn, sets)
    assert len(made) == sets
    exact = (drawn / step.view(-1, 1, 1, 1)).double()
    assert exact.abs().amax() <= LARGEST_WEIGHT * 1.0001
    for rounded in made:
        assert rounded.dtype == torch.int8
        # Along the snake the sums are never off by a step, so neither is any weight by two.
        sums = sum((exact - rounded)[..., row, column] for row, column in SNAKE)
        assert torch.as_tensor(sums).abs().max() < 1.001
        assert (exact - rounded).abs().max() < 1.001
    mean = torch.stack(made).double().mean(dim=0)
    assert (mean - exact).abs().max() <= 2 / sets + 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("name", ["encoder.1", "decoder_first.2", "head"])
def test_rounding_leaves_the_mean_to_the_bias(name: str) -> None:
    """What is the same everywhere comes out right in every set, however its weights were rounded."""
    network, _ = drawn_network(4, 6)
    module = network.get_submodule(name)
    convolution = getattr(module, "conv", module)
    drawn = torch.Generator().manual_seed(2)
    inputs = convolution.weight.shape[1]
    convolution.bias.uniform_(-1, 1, generator=drawn)
    steps = Quantisation(
        0.1 + torch.rand(inputs, generator=drawn), torch.randint(0, 255, (inputs,), generator=drawn).float()
    )
    mean = torch.randn(inputs, generator=drawn)
    expected = convolution.weight.sum(dim=(2, 3)) @ mean + convolution.bias
    scale = 1.0 / network.decoder_keep if name.startswith("decoder") else 1.0
    for rounded in _rounded(network, name, steps, mean, 3):
        bytes_of_mean = mean / (scale * steps.step) + steps.zero
        sums = rounded.weight.double().sum(dim=(2, 3)) @ bytes_of_mean.double()
        got = sums * rounded.scale + rounded.bias
        torch.testing.assert_close(got.float(), expected, rtol=1e-3, atol=1e-3)


def test_without_weights_there_is_a_step() -> None:
    made, step = rounded_weights(torch.zeros(2, 1, 3, 3))
    assert not torch.stack(made).any()
    assert (step > 0).all()


@given(st.floats(-50, 0, width=32), st.floats(0, 50, width=32), st.floats(0, 1, width=32))
def test_what_was_seen_fits_into_bytes_and_0_is_one_of_them(low: float, high: float, matters: float) -> None:
    ends = torch.tensor([low, -1.0]), torch.tensor([high, 1.0])
    steps = Quantisation.for_range(*ends, torch.tensor([matters, 1.0]))
    assert (steps.step > 0).all()
    for end in ends:
        byte = torch.round(end / steps.step) + steps.zero
        assert ((byte > 25 - 1e-3) & (byte < 230 + 1e-3)).all() or low == high == 0
    # With room for what other masks make of it, and no more where the channel matters.
    assert 0.75 * 255 < (ends[1] - ends[0])[1] / steps.step[1] < 0.85 * 255
    assert torch.equal(steps.zero, steps.zero.round())


def test_channels_that_matter_less_have_coarser_steps() -> None:
    steps = Quantisation.for_range(-torch.ones(4), torch.ones(4), torch.tensor([1.0, 0.5, 0.1, 0.0]))
    assert (steps.step.diff() > 0).all()
    # Within bounds, and never so fine that the range does not fit.
    assert steps.step[0] * 255 > 2
    assert steps.step[3] < 6 * steps.step[0]


@pytest.mark.parametrize("without", [False, True])
def test_floats_become_the_nearest_bytes(without: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a PyTorch that has lost what does it in one go."""
    if without:
        monkeypatch.delattr(torch, "quantize_per_tensor", raising=False)
    integers._without_warnings()
    values = torch.tensor([-1e9, -0.6, 0.0, 0.4, 0.6, 99.51, 254.4, 255.4, 300.0, 1e9]).view(1, 10, 1, 1)
    got = as_bytes(values.contiguous(memory_format=torch.channels_last))
    assert got.dtype == torch.uint8
    assert got.flatten().tolist() == [0, 0, 0, 0, 1, 100, 254, 255, 255, 255]


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (64, 160), (96, 64)])
def test_a_pass_is_nearly_that_of_float32(size: tuple[int, int]) -> None:
    network, specs = drawn_network()
    image = picture(*size)
    made = Int8Network(network, image, specs, 1, in_turn)
    for index in (0, 7):
        masks = masks_of(specs, size, index)
        exact = network(image, *masks)
        assert rms(made(masks, index, shared=False) - exact) < 0.04 * rms(exact - exact.mean())


@torch.inference_mode()
def test_the_mean_of_many_passes_is_not_rounded() -> None:
    """Against the network in float32, and against weights that are rounded once for all passes."""
    network, specs = drawn_network()
    image = picture(64, 64)
    passes = [masks_of(specs, (64, 64), index) for index in range(80)]

    def predictions(sets: int) -> torch.Tensor:
        made = Int8Network(network, image, specs, 1, in_turn, sets=sets)
        return torch.cat([made(masks, index, shared=False) for index, masks in enumerate(passes)]).double()

    exact = torch.cat([network(image, *masks) for masks in passes]).double()
    dithered, nearest = predictions(SETS) - exact, predictions(1) - exact
    assert rms(dithered.mean(dim=0)) < rms(dithered) / 4
    # Rounded once, they are better than one by one: sums of nine are right, and the bias makes up for the mean.
    assert rms(dithered.mean(dim=0)) < 0.7 * rms(nearest.mean(dim=0))


@torch.inference_mode()
def test_passes_take_turns_in_the_sets() -> None:
    network, specs = drawn_network()
    image = picture(64, 64)
    made, masks = Int8Network(network, image, specs, 1, in_turn), masks_of(specs, (64, 64), 0)
    first = made(masks, 0, shared=False)
    assert torch.equal(made(masks, SETS, shared=False), first)
    assert all(not torch.equal(made(masks, index, shared=False), first) for index in range(1, SETS))


@settings(max_examples=8)
@given(st.integers(2, 4), st.integers(2, 4), st.sampled_from([1, 500, 4_000, 60_000]), st.integers(1, 3))
def test_strips_and_threads_change_nothing(
    tiny: Fitted, tiny_model: Model, rows: int, columns: int, values: int, workers: int
) -> None:
    size = (32 * rows, 32 * columns)
    image, specs, masks = picture(*size), tiny.contract.masks, tensors_for(tiny_model, size, 0)
    with torch.inference_mode():
        whole = Int8Network(tiny.network, image, specs, 1, in_turn, 10**9, sets=1)(masks, 0, shared=False)
        made = Int8Network(tiny.network, image, specs, workers, one_after_the_other, values, sets=1)
        strips = made._strips(size[0], 6 * size[1])
        assert len(strips) > 1 or values > 4_000
        assert [strip.start for strip in strips] == [0, *(strip.stop for strip in strips[:-1])]
        assert strips[-1].stop == size[0]
        # The first convolution, in float32, may add up in another order, and one of its values become another byte.
        torch.testing.assert_close(made(masks, 0, shared=True), whole, rtol=0, atol=0.05)
        torch.testing.assert_close(made(masks, 0, shared=False), whole, rtol=0, atol=0.05)


@torch.inference_mode()
def test_another_image_is_laid_out_anew_and_a_mirrored_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    network, specs = drawn_network(4, 6)
    first, second = picture(64, 96), 0.1 * picture(64, 96, seed=6)
    masks = masks_of(specs, (64, 96), 0)
    fresh = {name: Int8Network(network, image, specs, 1, in_turn) for name, image in (("1", first), ("2", second))}
    made = Int8Network(network, first, specs, 1, in_turn)
    looked = []
    lay_out = integers.Int8Weights
    monkeypatch.setattr(integers, "Int8Weights", lambda *arguments: looked.append(1) or lay_out(*arguments))
    for oriented in (first.flip(2), first.flip(3), first.flip(2, 3), first):
        made.use_image(oriented.contiguous())
    assert not looked
    assert torch.equal(made(masks, 1, shared=False), fresh["1"](masks, 1, shared=False))
    # Rolled, it has the same values, and is another image.
    for other in (first.roll(5, 3), second):
        looked.clear()
        made.use_image(other)
        assert looked
    assert torch.equal(made(masks, 1, shared=False), fresh["2"](masks, 1, shared=False))


@torch.inference_mode()
def test_an_image_that_could_not_be_laid_out_is_laid_out_when_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network, specs = drawn_network(4, 6)
    first, second = picture(64, 64), 0.1 * picture(64, 64, seed=6)
    masks = masks_of(specs, (64, 64), 0)
    made = Int8Network(network, first, specs, 1, in_turn)
    before = made(masks, 0, shared=False)

    def fail(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(integers, "Int8Weights", fail)
        made.use_image(second)
    # As if it had not been given.
    assert torch.equal(made(masks, 0, shared=False), before)
    made.use_image(second)
    expected = Int8Network(network, second, specs, 1, in_turn)(masks, 0, shared=False)
    assert torch.equal(made(masks, 0, shared=False), expected)


@torch.inference_mode()
def test_the_first_convolution_reads_the_image_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 16 bits is not rounded to bytes."""
    network, specs = drawn_network(4, 6)
    image = picture(64, 64)
    made, masks = Int8Network(network, image, specs, 1, in_turn, 10**9), masks_of(specs, (64, 64), 0)
    read = []
    feature, gate = made._made.stem
    made._made.stem = (lambda padded: read.append(padded.clone()) or feature(padded), gate)
    made(masks, 0, shared=False)
    (padded,) = read
    assert torch.equal(padded[:, :3, 1:-1, 1:-1], masks[0].float())
    assert torch.equal(padded[:, 3:, 1:-1, 1:-1], masks[0] * image)


@torch.inference_mode()
@pytest.mark.parametrize("image", [torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)])
def test_an_image_of_one_value(image: torch.Tensor) -> None:
    network, specs = drawn_network()
    masks = masks_of(specs, (64, 64), 0)
    exact = network(image, *masks)
    made = Int8Network(network, image, specs, 1, in_turn)(masks, 0, shared=False)
    assert rms(made - exact) < 0.04 * max(rms(exact), 1e-3)


@torch.inference_mode()
@pytest.mark.parametrize(("value", "count"), [(float("nan"), 1), (float("inf"), 1), (3e38, None)])
def test_what_is_no_number_stays_none(value: float, count: int | None) -> None:
    """So that a damaged model is told, not drawn; also if only what it makes is none."""
    network, specs = drawn_network(4, 6)
    network.decoder_second[1].weight.view(-1)[:count] = value
    assert not Int8Weights(network, picture(64, 64), specs, 1).finite
    masks = masks_of(specs, (64, 64), 0)
    made = Int8Network(network, picture(64, 64), specs, 1, in_turn)(masks, 0, shared=False)
    assert made.shape == (1, 3, 64, 64)
    assert made.isnan().all()


@torch.inference_mode()
def test_ranges_are_those_of_the_modules(tiny: Fitted) -> None:
    """Against a pass of our own, with nothing hidden, so that every look sees the same."""
    image = picture(64, 96)
    specs = tuple(MaskSpec(spec.name, spec.dims, 256) for spec in tiny.contract.masks)
    ranges = ActivationRanges(tiny.network, image, specs, ["stem", "decoder_first.4"])
    planes = torch.cat([torch.ones_like(image), image], dim=1)
    torch.testing.assert_close(ranges.means["stem"], planes.mean((0, 2, 3)), rtol=0, atol=1e-5)
    before_it = {}
    hook = tiny.network.decoder_first[4].register_forward_hook(lambda *call: before_it.update(result=call[2]))
    tiny.network(image, *(torch.ones(1, *spec.shape({"H": 64, "W": 96}), dtype=torch.bool) for spec in specs))
    hook.remove()
    for name, made in {"stem": tiny.network.stem(planes), "decoder_first.4": before_it["result"]}.items():
        if name != "stem":
            made = torch.where(made < 0, 0.2 * made, made)
        torch.testing.assert_close(ranges.low[name], made.amin((0, 2, 3)).clamp(max=0), rtol=0, atol=1e-4)
        torch.testing.assert_close(ranges.high[name], made.amax((0, 2, 3)).clamp(min=0), rtol=0, atol=1e-4)
    assert ranges.low["decoder_first.4"].min() < -0.01
    assert not tiny.network.stem._forward_hooks


@torch.inference_mode()
def test_layers_are_laid_out_for_the_sizes_that_they_have(tiny: Fitted, tiny_model: Model) -> None:
    image = picture(64, 96)
    made = Int8Weights(tiny.network, image, tiny.contract.masks, 1)
    sizes = {}

    def noting(name: str) -> Callable[..., None]:
        return lambda module, inputs, result: sizes.update({name: tuple(result.shape[2:])})

    modules = dict(tiny.network.named_modules())
    hooks = [modules[name].register_forward_hook(noting(name)) for name in made.sizes if name in modules]
    tiny.network(image, *tensors_for(tiny_model, (64, 96), 0))
    for hook in hooks:
        hook.remove()
    assert {name: size for name, size in made.sizes.items() if name in sizes} == sizes
    assert {name.rpartition(".")[2] for name in made.sizes if name not in sizes} == {"pooled", "joined"}


@torch.inference_mode()
def test_of_a_large_image_the_telling_tiles_are_looked_at() -> None:
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
    # A smaller one is looked at as a whole.
    assert sum(tile.numel() for tile in calibration_tiles(image[..., :480, :416])) == 480 * 416


HEARD = """
import warnings
import torch
from tests.runtime.single_passes import drawn_network
from self2self.runtime.engines.torch_cpu.int8_network import Int8Network, as_bytes
from self2self.runtime.engines.windows import in_turn
network, specs = drawn_network(4, 6)
Int8Network(network, torch.rand(1, 3, 64, 64), specs, 1, in_turn)
warnings.simplefilter("error")
print(as_bytes(torch.ones(1)))
"""


def test_the_user_hears_nothing_of_what_pytorch_means_to_lose() -> None:
    done = subprocess.run([sys.executable, "-W", "always", "-c", HEARD], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("tensor([1], dtype=torch.uint8)\n", "")
