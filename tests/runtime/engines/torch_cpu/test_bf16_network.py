"""The network in bfloat16, compared with the network in float32, on any CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.model.contract import mask_specs
from self2self.model.layers import LEVELS
from self2self.model.network import Self2SelfNet, initialise
from self2self.runtime.engines.torch_cpu.bf16_network import WEIGHT_SETS, Bf16Network, stochastically_rounded
from self2self.runtime.model import Model
from tests.conftest import Fitted
from tests.runtime.single_passes import in_reverse_order, rms, tensors_for

STEP = 2.0**-7
"""Largest distance of two neighbouring bfloat16 values, relative to the smaller one."""


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20), st.sampled_from([1, 2, 8, 16]))
def test_the_mean_of_all_sets_is_the_value(values: list[float], sets: int) -> None:
    exact = torch.tensor(values, dtype=torch.float32)
    sets_of_values = torch.stack([stochastically_rounded(exact, index, sets).double() for index in range(sets)])
    step = exact.double().abs() * STEP + 1e-37
    # Each rounded value is a neighbour, above or below.
    assert ((sets_of_values - exact).abs() < step).all()
    assert ((sets_of_values.mean(dim=0) - exact).abs() <= step / (2 * sets) * 1.01).all()


def test_values_that_bfloat16_represents_do_not_change() -> None:
    exact = torch.tensor([0.0, -0.0, 1.0, -1.5, 2.0**-30, 3.0e38, float("inf"), -float("inf"), float("nan")])
    exact = exact.to(torch.bfloat16)
    for index in range(WEIGHT_SETS):
        torch.testing.assert_close(stochastically_rounded(exact.float(), index), exact, rtol=0, atol=0, equal_nan=True)
    # NaNs whose bits would overflow.
    largest_nans = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    assert stochastically_rounded(largest_nans, WEIGHT_SETS - 1).isnan().all()


@settings(max_examples=20)
@given(st.integers(2, 4), st.integers(2, 4), st.sampled_from([1, 4_000, 20_000, 60_000]), st.integers(1, 3))
def test_strips_do_not_change_the_prediction(
    tiny: Fitted, tiny_model: Model, rows: int, columns: int, values: int, workers: int
) -> None:
    size = (32 * rows, 32 * columns)
    image = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(1))
    masks = tensors_for(tiny_model, size, 0)
    with torch.inference_mode():
        whole = Bf16Network(tiny.network, image, 1, in_reverse_order, 10**9)(masks, 0, shared=False)
        network = Bf16Network(tiny.network, image, workers, in_reverse_order, values)
        assert len(network._strips()) > 1 or values > 4_000
        assert all(strip.start % 2 == 0 and strip.stop % 2 == 0 for strip in network._strips())
        # The order of a sum may decide whether a value of about 4 is rounded up or down.
        torch.testing.assert_close(network(masks, 0, shared=True), whole, rtol=0, atol=0.03)
        in_turn = network(masks, 0, shared=False)
    torch.testing.assert_close(in_turn, whole, rtol=0, atol=0.03)


@pytest.mark.slow
def test_the_mean_of_many_passes_has_almost_no_rounding_error() -> None:
    """Compared with float32, and with weights that are rounded to the nearest once for all passes."""
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
        low_precision = Bf16Network(network, image, 1, in_reverse_order, sets=sets)
        return torch.cat([low_precision(masks, index, shared=False) for index, masks in enumerate(all_masks)]).double()

    with torch.inference_mode():
        exact = torch.cat([network(image, *masks) for masks in all_masks]).double()
        dithered, nearest = predictions(WEIGHT_SETS), predictions(1)
    # Measured with four networks and seeds: the mean's error is 8 to 12 times smaller than a pass's, and 2.9 to 6 times
    # smaller than with one set of weights.
    assert rms((dithered - exact).mean(dim=0)) < rms(dithered - exact) / 4
    assert rms((dithered - exact).mean(dim=0)) < rms((nearest - exact).mean(dim=0)) / 2


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_keeps_16_bits(channels: int) -> None:
    """Two images whose difference is below a bfloat16 step give different network inputs."""
    network = Self2SelfNet(channels, 4, (4, 4, 4, 4, 4), 0.9)
    image = torch.full((1, channels, 64, 64), 0.7)
    masks = [torch.ones((1, channels, 64, 64), dtype=torch.bool)]
    for level in range(5):
        side = 64 >> (4 - level)
        masks += [torch.ones((1, 8, side, side), dtype=torch.bool), torch.ones((1, 4, side, side), dtype=torch.bool)]
    low_precision = Bf16Network(network, image, 1, in_reverse_order)
    first = low_precision._planes.clone()
    low_precision.use_image(image + 2.0**-15)
    assert (first != low_precision._planes).any()
    high, low = low_precision._planes[:, channels : 2 * channels], low_precision._planes[:, 2 * channels :]
    assert (high.float() + low.float() - image).abs().max() < 2.0**-14
    with torch.inference_mode():
        torch.testing.assert_close(low_precision(masks, 0, shared=False), network(image, *masks), rtol=0.05, atol=1e-6)
