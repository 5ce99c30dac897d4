"""The fused forward pass for a CPU, against the network itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from self2self.model.channels_last import apply_mask, as_factors, fold_border, pad_and_join
from self2self.model.contract import mask_specs
from self2self.model.masks import MaskMaker
from self2self.model.network import Self2SelfNet, initialise
from self2self.train.fused_forward import FusedTrainingForward

WIDTH, WIDTHS, KEEP = 8, (12, 12, 12, 8, 4), 0.8


def network_of(channels: int) -> Self2SelfNet:
    network = Self2SelfNet(channels, WIDTH, WIDTHS, KEEP)
    initialise(network, "kaiming", torch.Generator().manual_seed(2))
    return network


def inputs_of(channels: int, size: tuple[int, int], count: int = 1) -> tuple[torch.Tensor, list[torch.Tensor]]:
    specs = mask_specs(channels, WIDTH, WIDTHS, 0.7, KEEP)
    made = MaskMaker(specs, dict(zip("HW", size, strict=True)), 3).make(0, count)
    image = torch.rand((1, channels, *size), generator=torch.Generator().manual_seed(4))
    return image, [torch.from_numpy(mask.copy()) for mask in made.values()]


def gradients_of(network: Self2SelfNet, prediction: torch.Tensor) -> torch.Tensor:
    network.zero_grad()
    weights = torch.rand(prediction.shape, generator=torch.Generator().manual_seed(5))
    (prediction.square() * weights).sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "count"), [((64, 64), 1), ((96, 64), 1), ((64, 96), 2)])
def test_function_and_gradients_are_those_of_the_network(channels: int, size: tuple[int, int], count: int) -> None:
    network = network_of(channels)
    image, masks = inputs_of(channels, size, count)
    expected = network(image, *masks)
    got = FusedTrainingForward(network)(image, *masks)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    expected_gradients = gradients_of(network, expected)
    gradients = gradients_of(network, got)
    assert len(gradients) == sum(parameter.numel() for parameter in network.parameters())
    torch.testing.assert_close(
        gradients, expected_gradients, rtol=1e-3, atol=1e-5 * float(expected_gradients.abs().max())
    )


def test_bfloat16_differs_by_rounding_and_leaves_float32_behind() -> None:
    network = network_of(3)
    image, masks = inputs_of(3, (64, 64))
    expected = network(image, *masks)
    got = FusedTrainingForward(network, torch.bfloat16)(image, *masks)
    assert got.dtype == torch.float32
    assert 0 < float((got - expected).detach().norm() / expected.detach().norm()) < 0.02
    expected_gradients, gradients = gradients_of(network, expected), gradients_of(network, got)
    assert gradients.dtype == torch.float32
    assert 0 < float((gradients - expected_gradients).norm() / expected_gradients.norm()) < 0.03


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=2),
    st.integers(2, 6),
    st.integers(2, 6),
    st.booleans(),
    st.integers(0, 1000),
)
def test_borders_and_masks(widths: list[int], height: int, width: int, with_mask: bool, seed: int) -> None:
    """Forward and backward passes equal PyTorch's own padding, concatenation and product."""
    drawn = torch.Generator().manual_seed(seed)
    parts = [torch.randn((2, c, height, width), generator=drawn).requires_grad_() for c in widths]
    mask = torch.rand((2, sum(widths), height, width), generator=drawn) < 0.6
    joined = torch.cat(parts, dim=1)
    expected = F.pad(joined * mask if with_mask else joined, (1, 1, 1, 1), mode="reflect")
    factors = as_factors(mask, torch.float32) if with_mask else None
    got = pad_and_join([part.detach() for part in parts], factors)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected.detach(), rtol=0, atol=0)

    gradient = torch.randn(expected.shape, generator=drawn)
    expected.backward(gradient)  # type: ignore[no-untyped-call]
    inner = fold_border(gradient)
    got_gradient = inner if factors is None else apply_mask(inner, factors)
    expected_gradient = torch.cat([part.grad for part in parts if part.grad is not None], dim=1)
    torch.testing.assert_close(got_gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_rows_out_of_a_larger_image_bring_their_border() -> None:
    image = torch.from_numpy(np.arange(2 * 6 * 4, dtype=np.float32).reshape(1, 2, 6, 4))
    whole = pad_and_join([image])
    torch.testing.assert_close(pad_and_join([image[:, :, :4]], below=True), whole[:, :, :5])
    torch.testing.assert_close(pad_and_join([image[:, :, 2:]], above=True), whole[:, :, 3:])
    torch.testing.assert_close(pad_and_join([image[:, :, 1:5]], above=True, below=True), whole[:, :, 2:6])
