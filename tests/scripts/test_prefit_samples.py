"""Samples for the start weights, from two tiny photographs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SIZE = 64


@pytest.fixture
def module(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("prefit_samples")


def test_a_sample_depends_on_seed_and_index_alone(module: ModuleType, photographs: Path) -> None:
    samples = module.Samples([photographs], SIZE, 3)
    drawn = [samples[index] for index in range(20)]
    again = module.Samples([photographs], SIZE, 3)
    for index in reversed(range(20)):
        assert all(np.array_equal(a, b) for a, b in zip(drawn[index], again[index], strict=True))
    assert len({sample.noisy.tobytes() for sample in drawn}) == 20
    assert not np.array_equal(module.Samples([photographs], SIZE, 4)[0].noisy, drawn[0].noisy)
    for sample in drawn:
        assert {part.shape for part in (sample.clean, sample.noisy, sample.input_mask)} == {(3, SIZE, SIZE)}
        assert (sample.clean.dtype, sample.noisy.dtype, sample.level.dtype) == (np.float32,) * 3
        assert sample.input_mask.dtype == np.bool_


def test_the_level_is_that_of_the_noise_in_tens_of_grey_levels(module: ModuleType) -> None:
    clean = np.full((3, 100, 100), 0.5, np.float32)
    noisy = clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape).astype(np.float32)
    levels = np.array([module.told_level(clean, noisy, np.random.default_rng(seed)) for seed in range(500)])
    assert np.median(levels) == pytest.approx(2.5, rel=0.02)
    assert np.log(levels).std() == pytest.approx(0.1, rel=0.1)
    assert module.told_level(clean, clean, np.random.default_rng(0)) == 0


@pytest.mark.parametrize(("kind", "share"), [("gaussian", 0.2), ("grey", 0.76), ("shared", 0.76)])
def test_rates_and_shapes_of_what_is_hidden(module: ModuleType, kind: str, share: float) -> None:
    rng = np.random.default_rng(0)
    masks = np.array([module.draw_input_mask((3, 32, 32), kind, rng) for _ in range(500)])
    rates = 1 - masks.mean((1, 2, 3))
    assert np.mean(rates > 0.1) == pytest.approx(0.6 * 5 / 6, abs=0.07)
    assert 0.5 < rates.max() < 0.66
    assert np.median(rates[rates < 0.05]) == pytest.approx(0.02, abs=0.01)
    hidden = masks[rates > 0.05]
    together = np.mean([np.array_equal(mask[0], mask[1]) and np.array_equal(mask[0], mask[2]) for mask in hidden])
    assert together == pytest.approx(share, abs=0.08)
