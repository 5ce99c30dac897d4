"""The network in integers of 8 bits, against the network in float32; on any CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.contract import LEVELS, MaskSpec
from self2self.masks import MaskMaker
from self2self.runtime import integers
from self2self.runtime.integer_layers import LARGEST_WEIGHT, SETS, LaidOut, Steps, rounded_weights
from self2self.runtime.integers import IntegerNetwork, as_bytes
from self2self.runtime.model import Model
from self2self.runtime.ranges import Ranges, telling_tiles
from self2self.runtime.windows import in_turn
from self2self.train.network import Self2SelfNet
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


@settings(max_examples=30, deadline=None)
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


def test_without_weights_there_is_a_step() -> None:
    made, step = rounded_weights(torch.zeros(2, 1, 3, 3))
    assert not torch.stack(made).any()
    assert (step > 0).all()


@given(st.floats(-50, 0, width=32), st.floats(0, 50, width=32), st.floats(0, 1, width=32))
def test_what_was_seen_fits_into_bytes_and_0_is_one_of_them(low: float, high: float, matters: float) -> None:
    ends = torch.tensor([low, -1.0]), torch.tensor([high, 1.0])
    steps = Steps.for_range(*ends, torch.tensor([matters, 1.0]))
    assert (steps.step > 0).all()
    for end in ends:
        byte = torch.round(end / steps.step) + steps.zero
        # With room for what other masks make of it.
        assert ((byte > 12 - 1e-3) & (byte < 243 + 1e-3)).all() or low == high == 0
    assert torch.equal(steps.zero, steps.zero.round())


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
    made = IntegerNetwork(network, image, specs, 1, in_turn)
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
        made = IntegerNetwork(network, image, specs, 1, in_turn, sets=sets)
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
    made, masks = IntegerNetwork(network, image, specs, 1, in_turn), masks_of(specs, (64, 64), 0)
    first = made(masks, 0, shared=False)
    assert torch.equal(made(masks, SETS, shared=False), first)
    assert all(not torch.equal(made(masks, index, shared=False), first) for index in range(1, SETS))


@settings(deadline=None, max_examples=8)
@given(st.integers(2, 4), st.integers(2, 4), st.sampled_from([1, 500, 4_000, 60_000]), st.integers(1, 3))
def test_strips_and_threads_change_nothing(
    tiny: Fitted, tiny_model: Model, rows: int, columns: int, values: int, workers: int
) -> None:
    size = (32 * rows, 32 * columns)
    image, specs, masks = picture(*size), tiny.contract.masks, tensors_for(tiny_model, size, 0)
    with torch.inference_mode():
        whole = IntegerNetwork(tiny.network, image, specs, 1, in_turn, 10**9, sets=1)(masks, 0, shared=False)
        made = IntegerNetwork(tiny.network, image, specs, workers, one_after_the_other, values, sets=1)
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
    fresh = {name: IntegerNetwork(network, image, specs, 1, in_turn) for name, image in (("1", first), ("2", second))}
    made = IntegerNetwork(network, first, specs, 1, in_turn)
    looked = []
    lay_out = integers.LaidOut
    monkeypatch.setattr(integers, "LaidOut", lambda *arguments: looked.append(1) or lay_out(*arguments))
    for turned in (first.flip(2), first.flip(3), first.flip(2, 3), first):
        made.use_image(turned.contiguous())
    assert not looked
    assert torch.equal(made(masks, 1, shared=False), fresh["1"](masks, 1, shared=False))
    made.use_image(second)
    assert looked
    assert torch.equal(made(masks, 1, shared=False), fresh["2"](masks, 1, shared=False))


@torch.inference_mode()
@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_keeps_16_bits(channels: int) -> None:
    """A difference that bytes do not hold reaches the first convolution, and its mean the result."""
    network = Self2SelfNet(channels, 4, (4,) * LEVELS, 0.9)
    image = torch.full((1, channels, 64, 64), 0.7)
    specs = tuple(
        MaskSpec(spec.name, (channels, *spec.dims[1:]) if not index else spec.dims, 256)
        for index, spec in enumerate(drawn_network(4, 4)[1])
    )
    made = IntegerNetwork(network, image, specs, 1, in_turn)
    before = made._planes.clone()
    made.use_image(image + 2.0**-15)
    torch.testing.assert_close(
        made._planes[:, channels:] - before[:, channels:], torch.full_like(image, 2.0**-15), rtol=1e-2, atol=0
    )


@torch.inference_mode()
@pytest.mark.parametrize("image", [torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)])
def test_an_image_of_one_value(image: torch.Tensor) -> None:
    network, specs = drawn_network()
    masks = masks_of(specs, (64, 64), 0)
    exact = network(image, *masks)
    made = IntegerNetwork(network, image, specs, 1, in_turn)(masks, 0, shared=False)
    assert rms(made - exact) < 0.04 * max(rms(exact), 1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_what_is_no_number_stays_none(value: float) -> None:
    """So that a damaged model is told, not drawn."""
    network, specs = drawn_network(4, 6)
    network.decoder_second[1].weight[0, 0, 1, 1] = value
    masks = masks_of(specs, (64, 64), 0)
    made = IntegerNetwork(network, picture(64, 64), specs, 1, in_turn)(masks, 0, shared=False)
    assert made.shape == (1, 3, 64, 64)
    assert not made.isfinite().any()


@torch.inference_mode()
def test_ranges_are_those_of_the_modules(tiny: Fitted) -> None:
    """Against a pass of our own, with nothing hidden, so that every look sees the same."""
    image = picture(64, 96)
    specs = tuple(MaskSpec(spec.name, spec.dims, 256) for spec in tiny.contract.masks)
    ranges = Ranges(tiny.network, image, specs, ["stem", "decoder_first.4"])
    planes = torch.cat([torch.ones_like(image), image], dim=1)
    stem = tiny.network.stem(planes)
    torch.testing.assert_close(ranges.low["stem"], stem.amin((0, 2, 3)).clamp(max=0), rtol=0, atol=1e-5)
    torch.testing.assert_close(ranges.high["stem"], stem.amax((0, 2, 3)).clamp(min=0), rtol=0, atol=1e-5)
    torch.testing.assert_close(ranges.means["stem"], planes.mean((0, 2, 3)), rtol=0, atol=1e-5)
    # What a leaky ReLU leaves of it is a fifth.
    assert (ranges.low["decoder_first.4"] >= -0.2 * 100).all()
    assert not tiny.network.stem._forward_hooks


@torch.inference_mode()
def test_layers_are_laid_out_for_the_sizes_that_they_have(tiny: Fitted, tiny_model: Model) -> None:
    image = picture(64, 96)
    made = LaidOut(tiny.network, image, tiny.contract.masks, 1)
    sizes = {}

    def noting(name: str) -> Callable[..., None]:
        return lambda module, inputs, result: sizes.update({name: tuple(result.shape[2:])})

    hooks = [
        tiny.network.get_submodule(name).register_forward_hook(noting(name)) for name in made.sizes if name[0] != "j"
    ]
    tiny.network(image, *tensors_for(tiny_model, (64, 96), 0))
    for hook in hooks:
        hook.remove()
    assert {name: size for name, size in made.sizes.items() if name in sizes} == sizes
    assert {name for name in made.sizes if name not in sizes} == {f"joined.{level}" for level in range(LEVELS)}


@torch.inference_mode()
def test_of_a_large_image_the_telling_tiles_are_looked_at() -> None:
    image = torch.full((1, 1, 1024, 1152), 0.5)
    image[..., 700, 900] = 1.0
    image[..., 300, 200] = 0.0
    image[..., 128:256, 1000:1100] += 0.1 * torch.rand(128, 100)
    tiles = telling_tiles(image)
    assert len(tiles) == 16
    assert max(float(tile.max()) for tile in tiles) == 1.0
    assert min(float(tile.min()) for tile in tiles) == 0.0
    assert max(float(tile.std()) for tile in tiles) > 0.02
    assert all(tile.shape[2] % 32 == 0 and tile.shape[3] % 32 == 0 for tile in tiles)
    # A smaller one is looked at as a whole.
    assert sum(tile.numel() for tile in telling_tiles(image[..., :480, :416])) == 480 * 416


HEARD = """
import warnings
import torch
from tests.runtime.single_passes import drawn_network
from self2self.runtime.integers import IntegerNetwork, as_bytes
from self2self.runtime.windows import in_turn
network, specs = drawn_network(4, 6)
IntegerNetwork(network, torch.rand(1, 3, 64, 64), specs, 1, in_turn)
warnings.simplefilter("error")
print(as_bytes(torch.ones(1)))
"""


def test_the_user_hears_nothing_of_what_pytorch_means_to_lose() -> None:
    done = subprocess.run([sys.executable, "-W", "always", "-c", HEARD], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("tensor([1], dtype=torch.uint8)\n", "")
