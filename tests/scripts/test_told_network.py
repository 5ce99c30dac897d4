"""The network that is told the noise level, against networks with ordinary biases."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from self2self.model.contract import mask_specs
from self2self.model.layers import CONVOLUTIONS
from self2self.model.network import Self2SelfNet, initialise
from self2self.train.fit import StepMasks
from self2self.train.start_weights import GREY_LEVELS_PER_UNIT, PRETRAINED_FILE, pretrained_weights

WIDTH, WIDTHS, KEEP = 4, (4, 4, 4, 4, 4), 0.8
LEVELS = [0.0, 1.7, 4.0]


@pytest.fixture
def told(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("told_network")


def new_network() -> Self2SelfNet:
    network = Self2SelfNet(3, WIDTH, WIDTHS, KEEP)
    initialise(network, "kaiming", torch.Generator().manual_seed(0))
    return network


def inputs(count: int) -> list[Tensor]:
    specs = mask_specs(3, WIDTH, WIDTHS, 0.3, 1 - KEEP)
    masks = StepMasks(specs, (64, 64), 0, torch.device("cpu")).make(0, count)
    return [torch.rand((count, 3, 64, 64), generator=torch.Generator().manual_seed(1)), *masks]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_each_sample_has_the_bias_of_its_level(told: ModuleType, dtype: torch.dtype, tolerance: float) -> None:
    network = new_network()
    told.add_slopes(network)
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.endswith("weight"):
                parameter.normal_(0, 0.1, generator=draws)
    batch = inputs(len(LEVELS))
    got = told.ToldForward(network, torch.tensor(LEVELS), dtype)(*batch)
    own = network.state_dict()
    for index, level in enumerate(LEVELS):
        plain = new_network()
        plain.load_state_dict(
            {
                name: own[name] + level * own[name.replace("bias", "slope")] if name.endswith("bias") else own[name]
                for name in plain.state_dict()
            }
        )
        expected = plain(*(tensor[index : index + 1] for tensor in batch))
        torch.testing.assert_close(got[index : index + 1], expected, rtol=1e-3, atol=tolerance)


def test_gradient_of_a_slope_is_that_of_the_bias_times_the_level(told: ModuleType) -> None:
    network = new_network()
    told.add_slopes(network)
    told.ToldForward(network, torch.tensor([2.5, 2.5]))(*inputs(2)).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    for name, gradient in gradients.items():
        if name.endswith("bias"):
            torch.testing.assert_close(gradients[name.replace("bias", "slope")], 2.5 * gradient)


def test_slopes_start_from_zero(told: ModuleType) -> None:
    network, plain = new_network(), new_network()
    told.add_slopes(network)
    batch = inputs(1)
    torch.testing.assert_close(
        told.ToldForward(network, torch.tensor([3.0]))(*batch), plain(*batch), rtol=1e-4, atol=1e-5
    )


def test_training_and_fits_fold_a_level_alike(told: ModuleType, script: Callable[[str], ModuleType]) -> None:
    prefit = script("prefit")
    network = Self2SelfNet(prefit.CHANNELS, prefit.ENCODER_WIDTH, prefit.DECODER_WIDTHS)
    told.add_slopes(network)
    told.load_weights(PRETRAINED_FILE, network)
    forward = told.ToldForward(network, torch.tensor([25 / GREY_LEVELS_PER_UNIT]))
    folded = pretrained_weights(prefit.CHANNELS, 25)
    for name in CONVOLUTIONS:
        weight, bias = forward.parameters_of(network.get_submodule(name))
        assert torch.equal(weight, folded[f"{name}.weight"])
        torch.testing.assert_close(bias[0], folded[f"{name}.bias"])


def test_all_work_is_done_on_the_device_of_the_network(told: ModuleType) -> None:
    """The meta device has no memory, so every tensor of the CPU among its own would be an error."""
    network = new_network()
    told.add_slopes(network)
    network = network.to("meta")
    batch = [tensor.to("meta") for tensor in inputs(2)]
    prediction = told.ToldForward(network, torch.tensor([1.0, 2.0], device="meta"))(*batch)
    prediction.square().mean().backward()
    assert prediction.device.type == "meta"
    assert all(parameter.grad.device.type == "meta" for parameter in network.parameters())
