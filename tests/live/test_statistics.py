from __future__ import annotations

import numpy as np
import pytest

from self2self.errors import ResourceError
from self2self.live import statistics
from self2self.live.statistics import OutputStatistics, RunningStatistics

PASSES = np.random.default_rng(0).normal(size=(40, 6, 5, 3)).astype(np.float32) * 3


def of(kind: str, passes: np.ndarray, quantiles: tuple[float, ...] = ()) -> OutputStatistics:
    running = RunningStatistics("output", kind, quantiles)  # type: ignore[arg-type]
    for values in passes:
        running.add(values)
    return running.result()


def entropy(p: np.ndarray, axis: int) -> np.ndarray:
    return -np.sum(p * np.log(p), axis)


def test_values_have_mean_and_deviation_even_where_they_are_large() -> None:
    shifted = (PASSES.astype(np.float64) + 1e5).astype(np.float32)
    found = of("value", shifted, (0.1, 0.5))
    wide = shifted.astype(np.float64)
    np.testing.assert_allclose(found.mean, wide.mean(0), rtol=1e-7)
    np.testing.assert_allclose(found.std, wide.std(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(found.quantiles, np.quantile(wide, (0.1, 0.5), axis=0), rtol=1e-6)
    assert found.entropy is found.mutual_information is found.variation_ratio is None


def test_the_error_of_an_image_is_told_in_its_own_range_and_that_of_a_value_is_not() -> None:
    errors = {}
    for kind in ("image", "value"):
        for gain in (1, 10):
            running = RunningStatistics("output", kind)  # type: ignore[arg-type]
            for values in PASSES:
                running.add(gain * (values + 20))
            errors[kind, gain] = running.standard_error()
    expected = np.sqrt(PASSES.astype(np.float64).var(0, ddof=1).mean() / len(PASSES))
    assert errors["image", 1] == pytest.approx(expected, rel=1e-5)
    assert errors["image", 10] == pytest.approx(10 * expected, rel=1e-5)
    assert errors["value", 10] == pytest.approx(errors["value", 1], rel=1e-5)
    assert of("image", PASSES).entropy is None


def test_logits_have_entropies() -> None:
    found = of("logits", PASSES)
    powers = np.exp(PASSES.astype(np.float64))
    p = powers / powers.sum(2, keepdims=True)
    np.testing.assert_allclose(found.mean, p.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.std, p.std(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(found.entropy, entropy(p.mean(0), 1), rtol=1e-5)
    information = entropy(p.mean(0), 1) - entropy(p, 2).mean(0)
    np.testing.assert_allclose(found.mutual_information, information, rtol=1e-5)
    votes = [np.bincount(p[:, i, :, j].argmax(1), minlength=5).max() for i in range(6) for j in range(3)]
    np.testing.assert_allclose(found.variation_ratio, 1 - np.reshape(votes, (6, 3)) / 40, rtol=1e-6)
    as_probabilities = of("probabilities", p.astype(np.float32))
    np.testing.assert_allclose(as_probabilities.mutual_information, information, rtol=1e-4, atol=1e-6)


def test_one_class_stands_for_yes_and_no() -> None:
    single = PASSES[:, :, :1]
    both = of("logits", np.concatenate([np.zeros_like(single), single], axis=2))
    one = of("logits", single)
    np.testing.assert_allclose(one.mean[:, 0], both.mean[:, 1], rtol=1e-5)
    for name in ("entropy", "mutual_information", "variation_ratio"):
        np.testing.assert_allclose(getattr(one, name), getattr(both, name), rtol=1e-5, atol=1e-7)


def test_certain_and_extreme_classes_are_finite() -> None:
    sure = np.tile(np.array([[[1e4, -1e4]]], np.float32), (3, 1, 1))
    found = of("logits", sure)
    assert found.entropy == found.mutual_information == found.variation_ratio == 0
    assert of("logits", np.full((3, 1, 1), -1e4, np.float32)).mean == 0


def test_the_standard_error_is_that_of_the_mean() -> None:
    running = RunningStatistics("output", "value")
    assert running.standard_error() == float("inf")
    for values in PASSES + 7:
        running.add(values)
    wide = PASSES.astype(np.float64) + 7
    error = np.sqrt((wide.std(0, ddof=1) ** 2).mean() / 40)
    assert running.standard_error() == pytest.approx(error / np.sqrt((wide.mean(0) ** 2).mean()))


def test_batches_are_joined_along_the_samples() -> None:
    parts = [of("logits", PASSES[:, start : start + 3], (0.5,)) for start in (0, 3)]
    whole, joined = of("logits", PASSES, (0.5,)), OutputStatistics.joined(parts)
    for name in OutputStatistics.__slots__:
        np.testing.assert_allclose(getattr(joined, name), getattr(whole, name), rtol=1e-6)


def test_quantiles_do_not_take_any_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "LARGEST_KEPT_BYTES", 10 * PASSES[0].nbytes)
    with pytest.raises(ResourceError, match="quantiles of output after 10 passes"):
        of("value", PASSES, (0.5,))
    of("value", PASSES)
