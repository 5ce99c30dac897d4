from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from self2self.bench.plain_loop import PlainSelf2Self, plain_ensemble
from self2self.model.contract import mask_specs
from self2self.model.masks import MaskMaker
from self2self.model.network import Self2SelfNet, initialise

SIZE = {"H": 64, "W": 96}


def drawn_masks(network: Self2SelfNet, seed: int) -> list[Tensor]:
    """Return the ten masks that the plain network draws if it runs right after `seed` is set."""
    torch.manual_seed(seed)
    masks = []
    specs = mask_specs(network.channels, network.encoder_width, network.decoder_widths, 0.0, 0.0)
    for spec in specs[1:]:
        ones = torch.ones(1, *spec.shape(SIZE))
        masks.append(F.dropout(ones, 1.0 - network.decoder_keep, training=True) > 0)
    return masks


def both(network: Self2SelfNet, seed: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    image = torch.rand(1, network.channels, *SIZE.values(), generator=source)
    input_mask = torch.rand(image.shape, generator=source) < 0.6
    masks = drawn_masks(network, seed)
    plain = PlainSelf2Self.from_network(network)
    with torch.no_grad():
        ours = network(image, input_mask, *masks)
        torch.manual_seed(seed)
        return ours, plain(image, input_mask.float())


def parameter_count(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_paper_network_has_the_published_number_of_parameters() -> None:
    assert parameter_count(Self2SelfNet()) == 1_253_571
    assert parameter_count(PlainSelf2Self()) == 1_253_571


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_equals_the_plain_formulation_given_its_draws(make_fitted, channels: int) -> None:
    ours, plain = both(make_fitted(channels, drop_rate=0.4, seed=channels).network, seed=5)
    assert ours.shape == (1, channels, 64, 96)
    assert ours.std() > 1e-3
    assert (ours - plain).abs().max() < 1e-5


@pytest.mark.parametrize("drop_rate", [0.1, 0.7, 0.9])
def test_equals_the_plain_formulation_at_other_drop_rates(make_fitted, drop_rate: float) -> None:
    ours, plain = both(make_fitted(drop_rate=drop_rate).network, seed=6)
    assert (ours - plain).abs().max() < 1e-5


def test_paper_network_equals_the_plain_formulation(make_fitted) -> None:
    ours, plain = both(make_fitted(3, 48, (96,) * 5).network, seed=7)
    assert (ours - plain).abs().max() < 1e-5


def test_another_draw_gives_another_prediction(tiny) -> None:
    ours, _ = both(tiny.network, seed=1)
    _, plain = both(tiny.network, seed=2)
    assert (ours - plain).abs().max() > 1e-2


def batch(fitted, count: int) -> tuple[Tensor, list[Tensor]]:
    masks = MaskMaker(fitted.contract.masks, SIZE, seed=0).make(0, count)
    image = torch.rand(1, fitted.contract.channels, *SIZE.values(), generator=torch.Generator().manual_seed(0))
    return image, [torch.from_numpy(mask) for mask in masks.values()]


def test_a_batch_shares_the_image_and_equals_single_passes(tiny) -> None:
    image, masks = batch(tiny, 3)
    with torch.no_grad():
        together = tiny.network(image, *masks)
        alone = [tiny.network(image, *(mask[row : row + 1] for mask in masks)) for row in range(3)]
        repeated = tiny.network(image.expand(3, -1, -1, -1), *masks)
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    torch.testing.assert_close(together, repeated, rtol=0, atol=1e-6)


def test_hidden_pixels_do_not_reach_the_prediction(tiny) -> None:
    image, masks = batch(tiny, 1)
    changed = torch.where(masks[0], image, torch.rand_like(image))
    with torch.no_grad():
        assert torch.equal(tiny.network(image, *masks), tiny.network(changed, *masks))


def test_every_mask_matters(tiny) -> None:
    image, masks = batch(tiny, 1)
    with torch.no_grad():
        before = tiny.network(image, *masks)
        for index in range(len(masks)):
            flipped = [~mask if i == index else mask for i, mask in enumerate(masks)]
            assert (tiny.network(image, *flipped) - before).abs().max() > 1e-4, index


def test_training_mode_changes_nothing(tiny) -> None:
    image, masks = batch(tiny, 1)
    with torch.no_grad():
        evaluated = tiny.network.eval()(image, *masks)
        trained = tiny.network.train()(image, *masks)
    assert torch.equal(evaluated, trained)


def test_channels_last_computes_the_same(make_fitted) -> None:
    fitted = make_fitted()
    image, masks = batch(fitted, 2)
    with torch.no_grad():
        plain = fitted.network(image, *masks)
        last = fitted.network.to(memory_format=torch.channels_last)(
            image.contiguous(memory_format=torch.channels_last), *masks
        )
    torch.testing.assert_close(plain, last, rtol=0, atol=1e-5)


def test_every_weight_gets_a_gradient(make_fitted) -> None:
    fitted = make_fitted()
    image, masks = batch(fitted, 1)
    fitted.network(image, *masks).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in fitted.network.parameters())


def test_half_precision_stays_in_half_precision(make_fitted) -> None:
    fitted = make_fitted()
    image, masks = batch(fitted, 1)
    with torch.no_grad():
        assert fitted.network.to(torch.bfloat16)(image.bfloat16(), *masks).dtype == torch.bfloat16


def test_wrong_number_of_levels_is_a_bug() -> None:
    with pytest.raises(ValueError, match="decoder_widths has 3 entries; expected 5"):
        Self2SelfNet(3, 4, (4, 4, 4))


@pytest.mark.parametrize(("scheme", "deviation"), [("normal", 0.02), ("kaiming", (2 / 1.04 / (9 * 96)) ** 0.5)])
def test_initialisation_has_the_stated_spread(scheme: str, deviation: float) -> None:
    network = Self2SelfNet()
    initialise(network, scheme, torch.Generator().manual_seed(0))
    weight = network.decoder_second[3].weight
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert abs(weight.mean().item()) < 5 * deviation / weight.numel() ** 0.5
    assert all(not bias.any() for name, bias in network.named_parameters() if name.endswith("bias"))


def test_initialisation_is_a_function_of_the_generator() -> None:
    def weights(seed: int, widths: Sequence[int] = (6, 6, 6, 4, 4)) -> np.ndarray:
        network = Self2SelfNet(3, 4, widths)
        initialise(network, "kaiming", torch.Generator().manual_seed(seed))
        return torch.cat([w.detach().flatten() for w in network.parameters()]).numpy()

    np.testing.assert_array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_plain_ensemble_converges_to_the_mean_over_our_masks(tiny) -> None:
    # The two ensembles draw different masks, so they agree to the standard error only.
    passes = 60
    image, _ = batch(tiny, 1)
    torch.manual_seed(0)
    plain = plain_ensemble(PlainSelf2Self.from_network(tiny.network), image, passes, 1 - 154 / 256, clamp=False)
    masks = MaskMaker(tiny.contract.masks, SIZE, seed=0)
    with torch.no_grad():
        ours = torch.cat(
            [
                tiny.network(image, *(torch.from_numpy(mask) for mask in masks.make(first, 10).values()))
                for first in range(0, passes, 10)
            ]
        ).double()
    error = (2 * ours.var(dim=0) / passes).sqrt()
    deviation = (plain[0] - ours.mean(dim=0)) / error
    # Pixels share activations, so the root mean square is near 1 but not sharply so.
    assert deviation.square().mean().sqrt() < 1.5


def test_plain_ensemble_is_clamped(tiny) -> None:
    image, _ = batch(tiny, 1)
    result = plain_ensemble(PlainSelf2Self.from_network(tiny.network), image * 50, 2)
    assert result.dtype == torch.float32
    assert result.min() >= 0
    assert result.max() <= 1
