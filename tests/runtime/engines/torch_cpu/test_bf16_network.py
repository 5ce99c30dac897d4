"""The network in bfloat16, against the network in float32; on any CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.model.contract import mask_specs
from self2self.model.layers import LEVELS
from self2self.model.network import Self2SelfNet, initialise
from self2self.runtime.engines.torch_cpu.bf16_network import SETS, Bf16Network, rounded
from self2self.runtime.model import Model
from tests.conftest import Fitted
from tests.runtime.single_passes import one_after_the_other, rms, tensors_for

STEP = 2.0**-7
"""Between two neighbours in bfloat16, at most, in units of the smaller one."""


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20), st.sampled_from([1, 2, 8, 16]))
def test_the_mean_of_all_sets_is_the_value(values: list[float], sets: int) -> None:
    exact = torch.tensor(values, dtype=torch.float32)
    made = torch.stack([rounded(exact, index, sets).double() for index in range(sets)])
    step = exact.double().abs() * STEP + 1e-37
    # Each is a neighbour, up or down.
    assert ((made - exact).abs() < step).all()
    assert ((made.mean(dim=0) - exact).abs() <= step / (2 * sets) * 1.01).all()


def test_what_bfloat16_holds_is_kept() -> None:
    held = torch.tensor([0.0, -0.0, 1.0, -1.5, 2.0**-30, 3.0e38, float("inf"), -float("inf"), float("nan")])
    held = held.to(torch.bfloat16)
    for index in range(SETS):
        torch.testing.assert_close(rounded(held.float(), index), held, rtol=0, atol=0, equal_nan=True)
    worst = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    assert rounded(worst, SETS - 1).isnan().all()


@settings(max_examples=20)
@given(st.integers(2, 4), st.integers(2, 4), st.sampled_from([1, 4_000, 20_000, 60_000]), st.integers(1, 3))
def test_strips_change_nothing(
    tiny: Fitted, tiny_model: Model, rows: int, columns: int, values: int, workers: int
) -> None:
    size = (32 * rows, 32 * columns)
    image = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(1))
    masks = tensors_for(tiny_model, size, 0)
    with torch.inference_mode():
        whole = Bf16Network(tiny.network, image, 1, one_after_the_other, 10**9)(masks, 0, shared=False)
        network = Bf16Network(tiny.network, image, workers, one_after_the_other, values)
        assert len(network._strips()) > 1 or values > 4_000
        assert all(strip.start % 2 == 0 and strip.stop % 2 == 0 for strip in network._strips())
        # Sums in another order may round a value of about 4 the other way.
        torch.testing.assert_close(network(masks, 0, shared=True), whole, rtol=0, atol=0.03)
        in_turn = network(masks, 0, shared=False)
    torch.testing.assert_close(in_turn, whole, rtol=0, atol=0.03)


@pytest.mark.slow
def test_the_mean_of_many_passes_is_not_rounded() -> None:
    """Against the network in float32, and against weights that are rounded to the nearest, once for all passes."""
    passes, size, width = 80, 64, 16
    drawn = torch.Generator().manual_seed(1)
    network = Self2SelfNet(3, width, (32,) * LEVELS, 0.97).eval()
    initialise(network, "kaiming", drawn)
    image = torch.rand((1, 3, size, size), generator=drawn)
    specs = mask_specs(3, width, network.decoder_widths, 0.2, 0.03)[1:]
    shapes = [spec.shape({"H": size, "W": size}) for spec in specs]
    all_masks = [
        [torch.rand((1, 3, size, size), generator=drawn) < 0.8]
        + [torch.rand((1, *shape), generator=drawn) < 0.97 for shape in shapes]
        for _ in range(passes)
    ]

    def predictions(sets: int) -> torch.Tensor:
        made = Bf16Network(network, image, 1, one_after_the_other, sets=sets)
        return torch.cat([made(masks, index, shared=False) for index, masks in enumerate(all_masks)]).double()

    with torch.inference_mode():
        exact = torch.cat([network(image, *masks) for masks in all_masks]).double()
        dithered, nearest = predictions(SETS), predictions(1)
    # Measured with four networks and draws: the means are closer by factors of 2.9 to 6, and than a pass by 8 to 12.
    assert rms((dithered - exact).mean(dim=0)) < rms(dithered - exact) / 4
    assert rms((dithered - exact).mean(dim=0)) < rms((nearest - exact).mean(dim=0)) / 2


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_keeps_16_bits(channels: int) -> None:
    """Two images that differ by less than bfloat16 resolves are not the same to the network."""
    network = Self2SelfNet(channels, 4, (4, 4, 4, 4, 4), 0.9)
    image = torch.full((1, channels, 64, 64), 0.7)
    masks = [torch.ones((1, channels, 64, 64), dtype=torch.bool)]
    for level in range(5):
        side = 64 >> (4 - level)
        masks += [torch.ones((1, 8, side, side), dtype=torch.bool), torch.ones((1, 4, side, side), dtype=torch.bool)]
    runs = Bf16Network(network, image, 1, one_after_the_other)
    first = runs._planes.clone()
    runs.use_image(image + 2.0**-15)
    assert (first != runs._planes).any()
    assert (
        runs._planes[:, channels : 2 * channels].float() + runs._planes[:, 2 * channels :].float() - image
    ).abs().max() < 2.0**-14
    with torch.inference_mode():
        torch.testing.assert_close(runs(masks, 0, shared=False), network(image, *masks), rtol=0.05, atol=1e-6)
