"""Fusing, compared with plain means of the frames, and with the clean frames."""

from __future__ import annotations

import numpy as np
import pytest

from self2self.imaging.neighbours import FloatArray, Fused, fuse, neighbour_of, variance_aimed_at
from tests.imaging.scenes import SIGMA, noisy, other_view, view

INSIDE = (slice(None), slice(24, -24), slice(24, -24))
AIM = variance_aimed_at(1)


def fused_with(page: FloatArray, *others: FloatArray) -> Fused:
    return fuse(page, [neighbour_of(page, other) for other in others], AIM)


def error(result: FloatArray, clean: FloatArray, where: tuple[slice, ...] = INSIDE) -> float:
    """Root mean square error in standard deviations of the noise of a page."""
    return float(np.sqrt(np.square(result - clean)[where].mean())) / SIGMA


def unscaled(fused: Fused) -> FloatArray:
    return fused.restored(fused.pixels)


def test_a_static_scene_becomes_nearly_the_mean_of_its_frames() -> None:
    frames = [noisy(view(), seed) for seed in range(3)]
    fused = fused_with(*frames)
    assert min(fit.weight for fit in fused.neighbours) > 0.95
    assert error(unscaled(fused), view()) < 1.06 * error(np.mean(frames, axis=0), view())
    assert fused.contrast.mean() > 0.98


def test_known_shifts_are_undone_before_the_mean() -> None:
    fused = fused_with(noisy(view(), 0), noisy(view(55, 193), 1), noisy(view(62, 181), 2))
    assert error(unscaled(fused), view()) < 1.1 / np.sqrt(3)


def test_a_cut_leaves_the_page_as_it_is() -> None:
    page = noisy(view(), 0)
    fused = fused_with(page, noisy(other_view(), 1), noisy(1 - other_view()[:, ::-1], 2))
    assert max(fit.weight for fit in fused.neighbours) < 0.1
    assert error(unscaled(fused), view()) < 1.02
    one_fits = fused_with(page, noisy(other_view(), 1), noisy(view(), 2))
    assert error(unscaled(one_fits), view()) < 1.04 / np.sqrt(2)


def test_what_moved_is_not_smeared() -> None:
    page, before = view(), view()
    page[:, 50:80, 40:70] = 0.9
    before[:, 50:80, 75:105] = 0.9
    fused = fused_with(noisy(page, 0), noisy(before, 1), noisy(before, 2))
    for where in ((slice(None), slice(50, 80), slice(40, 70)), (slice(None), slice(50, 80), slice(75, 105))):
        assert error(unscaled(fused), page, where) < 1.05
    assert error(unscaled(fused), page, (slice(None), slice(8, 30), slice(8, -8))) < 0.65


@pytest.mark.parametrize(("gain", "offset"), [(0.85, 0.0), (1.2, 0.0), (1.0, 0.1), (0.9, -0.1)])
def test_bleaching_costs_no_weight_and_keeps_the_brightness_of_the_page(gain: float, offset: float) -> None:
    page, other = noisy(view(), 0), gain * noisy(view(), 1) + np.float32(offset)
    fused = fused_with(page, other)
    assert fused.neighbours[0].weight > 0.9
    assert error(unscaled(fused), view()) < 1.1 / np.sqrt(2)
    assert abs(float((unscaled(fused) - page)[INSIDE].mean())) < 0.02 * SIGMA


def test_a_duplicate_counts_for_nothing() -> None:
    page, other = noisy(view(), 0), noisy(view(), 1)
    fused = fused_with(page, page.copy(), other)
    assert fused.neighbours[0].shared > 0.99
    assert fused.neighbours[0].weight == 0
    np.testing.assert_array_equal(fused.pixels, fuse(page, [neighbour_of(page, other)], AIM).pixels)


def test_noise_that_frames_share_is_found() -> None:
    pattern = noisy(view(), 9, SIGMA) - view()
    frames = [noisy(view() + pattern, seed, SIGMA / 2) for seed in range(2)]
    (fit,) = fused_with(*frames).neighbours
    assert 0.7 < fit.shared < 0.9


def test_correlated_noise_is_averaged_too() -> None:
    def correlated(seed: int) -> FloatArray:
        noise = noisy(np.zeros((1, 129, 129), np.float32), seed, 2 * SIGMA)
        return view() + (noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1] + noise[:, :-1, :-1]) / 4

    fused = fused_with(correlated(0), correlated(1), correlated(2))
    assert error(unscaled(fused), view()) < 1.1 / np.sqrt(3)


def test_photon_noise_is_averaged_at_every_brightness() -> None:
    clean = np.concatenate([np.full((1, 64, 128), 0.05), np.full((1, 64, 128), 0.9)], axis=1).astype(np.float32)
    rng = np.random.default_rng(0)
    frames = [(rng.poisson(100 * clean) / 100).astype(np.float32) for _ in range(3)]
    result = unscaled(fused_with(*frames))
    for rows, level in ((slice(8, 56), 0.05), (slice(72, 120), 0.9)):
        assert result[:, rows].std() < 1.12 * np.sqrt(level / 300)


def test_scaled_detail_has_equally_strong_noise_and_comes_back() -> None:
    flat = np.full((1, 128, 128), 0.5, np.float32)
    other = flat.copy()
    # A pattern that the page does not have.
    other[:, :, 64:] += 0.4 * (np.indices((128, 64)).sum(axis=0) // 8 % 2)
    page = noisy(flat, 0)
    fused = fused_with(page, noisy(other, 1), noisy(other, 2))
    left, right = fused.pixels[:, 16:-16, 16:48], fused.pixels[:, 16:-16, 80:-16]
    assert left.std() == pytest.approx(right.std(), rel=0.08)
    np.testing.assert_allclose(unscaled(fused)[:, 16:-16, 90:-16], page[:, 16:-16, 90:-16], atol=0.15 * SIGMA)
    np.testing.assert_allclose(fused.restored_deviations(np.ones_like(page)) * fused.contrast, 1, rtol=1e-6)


def test_without_neighbours_the_page_comes_back() -> None:
    page = noisy(view(), 0)
    fused = fuse(page, [], AIM)
    np.testing.assert_allclose(unscaled(fused), page, atol=1e-5)
    assert (fused.pixels - fused.means).std() == pytest.approx(np.sqrt(AIM) * (page - fused.means).std(), rel=1e-4)


def test_what_was_not_measured_has_no_weight() -> None:
    missing = np.zeros((128, 128), bool)
    missing[40:80, 40:80] = True
    weight = neighbour_of(noisy(view(), 0), noisy(view(), 1), missing).weight
    assert weight[missing].mean() < 0.1
    assert weight[~missing].mean() > 0.85


@pytest.mark.parametrize("size", [(8, 8), (9, 200)])
def test_any_size_and_constant_pages_can_be_fused(size: tuple[int, int]) -> None:
    flat = np.full((3, *size), 0.5, np.float32)
    fused = fused_with(flat, flat, noisy(flat, 1))
    assert np.isfinite(fused.pixels).all()
    np.testing.assert_allclose(fused.means, 0.5, atol=0.2)
