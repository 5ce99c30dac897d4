import numpy as np
import pytest
import torch

from self2self.train.losses import masked_loss

EVERYWHERE = (slice(None), slice(None))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_mean_over_the_hidden_values_alone(norm: str) -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.random((2, 3, 8, 9)), rng.random((1, 3, 8, 9))
    visible = rng.random((2, 3, 8, 9)) < 0.6
    errors = np.abs(prediction - target)[~visible]
    expected = errors.mean() if norm == "l1" else np.square(errors).mean()
    got = masked_loss(*map(torch.from_numpy, (prediction, target, visible)), EVERYWHERE, norm)
    assert float(got) == pytest.approx(expected)


def test_visible_values_and_padding_give_no_gradient() -> None:
    prediction = torch.rand(1, 1, 8, 8, requires_grad=True)
    visible = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    visible[..., 3] = True
    loss_region = (slice(2, 6), slice(1, 7))
    masked_loss(prediction, torch.zeros(1, 1, 8, 8), visible, loss_region, "l2").backward()
    assert prediction.grad is not None
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[loss_region] = True
    expected[:, 3] = False
    assert torch.equal(prediction.grad[0, 0] != 0, expected)


def test_nothing_hidden_is_zero_and_not_nan() -> None:
    ones = torch.ones(1, 1, 8, 8)
    assert float(masked_loss(ones, 0 * ones, ones.bool(), EVERYWHERE, "l1")) == 0
