from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from self2self.live.contract import LiveContract, LiveMask
from self2self.live.draws import draw_pass
from tests.live.graphs import contract

RATES = (0.1, 0.5, 0.999)


def drawing(*masks: LiveMask) -> LiveContract:
    return replace(contract(), masks=masks)


def mask(rate: float, dims: tuple[int | str, ...] = ("batch*2", 5), *, batched: bool = True) -> LiveMask:
    return LiveMask("m", "", "dropout", "mask", round((1 - rate) * 65536), dims, batched)


def noise(draw: str) -> LiveMask:
    return LiveMask("n", "", "rand", draw, None, ("batch", 40001), True)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", RATES)
def test_a_mask_keeps_its_share(rate: float) -> None:
    count = 2**20
    drawn = draw_pass(drawing(mask(rate, ("batch", count))), {"batch": 1}, 0, 0)["m"]
    assert drawn.shape == (1, count)
    assert drawn.dtype == np.bool_
    keep = round((1 - rate) * 65536) / 65536
    # Five standard errors of the share.
    assert abs(drawn.mean() - keep) < 5 * np.sqrt(keep * (1 - keep) / count)


def test_a_sample_has_its_masks_in_any_batch() -> None:
    described = drawing(mask(0.4), replace(mask(0.4, (6,), batched=False), name="all"))
    whole = draw_pass(described, {"batch": 5}, 3, 7)
    parts = [draw_pass(described, {"batch": n}, 3, 7, first_sample=first) for first, n in ((0, 2), (2, 3))]
    np.testing.assert_array_equal(whole["m"], np.concatenate([part["m"] for part in parts]))
    for part in parts:
        np.testing.assert_array_equal(part["all"], whole["all"])
    rows = whole["m"].reshape(5, -1)
    assert len(np.unique(rows, axis=0)) == 5


def test_shared_masks_are_those_of_the_first_sample() -> None:
    described = drawing(mask(0.4))
    shared = draw_pass(described, {"batch": 4}, 3, 7, shared=True)["m"]
    first = draw_pass(described, {"batch": 1}, 3, 7)["m"]
    np.testing.assert_array_equal(shared, np.concatenate([first] * 4))


def test_passes_and_seeds_are_independent() -> None:
    described = drawing(mask(0.5, ("batch", 4096)))
    drawn = [draw_pass(described, {"batch": 2}, seed, index)["m"].ravel() for seed in (0, 1) for index in (0, 1)]
    agreement = [(one == other).mean() for i, one in enumerate(drawn) for other in drawn[:i]]
    # 8192 comparisons with probability 1/2: five standard errors are 0.028.
    assert max(abs(share - 0.5) for share in agreement) < 0.028
    again = draw_pass(described, {"batch": 2}, 1, 1)["m"].ravel()
    np.testing.assert_array_equal(drawn[3], again)


def test_noise_has_its_distribution() -> None:
    uniform = draw_pass(drawing(noise("uniform")), {"batch": 8}, 0, 0)["n"]
    normal = draw_pass(drawing(noise("normal")), {"batch": 8}, 0, 0)["n"]
    assert uniform.dtype == normal.dtype == np.float32
    assert uniform.shape == normal.shape == (8, 40001)
    assert uniform.min() > 0
    assert uniform.max() < 1
    error = 5 / np.sqrt(uniform.size)
    for values, moments in ((uniform, (1 / 2, 1 / 3, 1 / 4)), (normal, (0, 1, 0))):
        for power, moment in enumerate(moments, 1):
            assert abs(np.mean(values.astype(float) ** power) - moment) < error * (1 if power < 3 else 4)
    # Kurtosis tells a normal distribution from others with these moments.
    assert abs(np.mean(normal.astype(float) ** 4) - 3) < 10 * error


def test_a_wrong_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="size"):
        draw_pass(drawing(mask(0.5, ("height",))), {"batch": 1}, 0, 0)
