"""The convergence curve, on engines with a known mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from self2self.bench import convergence as module
from self2self.bench.convergence import convergence, recorded_passes
from tests.runtime.fakes import FakeEngine, fake_model


@pytest.mark.parametrize(
    ("passes", "expected"),
    [(1, [1]), (4, [1, 2, 3, 4]), (10, [1, 2, 3, 5, 7, 10]), (100, [1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100])],
)
def test_recorded_passes_end_with_all_passes(passes: int, expected: list[int]) -> None:
    assert recorded_passes(passes) == expected


def test_distance_and_psnr_follow_from_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine shows half the pixels of a flat image, so its mean goes to half the image."""
    monkeypatch.setattr(module, "engine_class", lambda name: FakeEngine)
    image = np.full((3, 64, 64), 0.8, np.float32)
    clean = np.full((3, 64, 64), 0.4, np.float32)
    model = fake_model(keep_count=128)
    # Independent masks, so that the error falls as one over the square root.
    model = replace(model, contract=replace(model.contract, recipe="paper"))
    found = convergence(model, image, "fake", 200, reference=clean)
    assert (found["balanced_masks"], found["flips"]) == (False, False)
    assert found["passes"] == recorded_passes(200)
    # One pass: standard deviation 0.4 of every pixel, so 255 * 0.4 grey levels and 8 dB.
    assert found["distance_grey_levels"][0] == pytest.approx(102, rel=0.02)
    assert found["distance_grey_levels"][-1] is None
    assert found["psnr"][0] == pytest.approx(-20 * np.log10(0.4), abs=0.2)
    assert found["psnr"][-1] == pytest.approx(-20 * np.log10(0.4 / np.sqrt(200)), abs=0.2)
    distances = found["distance_grey_levels"][:-1]
    assert distances == sorted(distances, reverse=True)


def test_without_a_reference_there_is_no_psnr_and_infinity_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "engine_class", lambda name: FakeEngine)
    image = np.zeros((3, 64, 64), np.float32)
    assert convergence(fake_model(), image, "fake", 2)["psnr"] is None
    assert convergence(fake_model(), image, "fake", 2, reference=image)["psnr"] == [None, None]


def test_passes_are_drawn_as_infer_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are balanced: after a block of ten passes, the mean equals the final mean."""
    monkeypatch.setattr(module, "engine_class", lambda name: FakeEngine)
    found = convergence(fake_model(keep_count=128), np.full((3, 64, 64), 0.8, np.float32), "fake", 20)
    assert (found["balanced_masks"], found["flips"]) == (True, True)
    assert found["distance_grey_levels"][found["passes"].index(7)] > 5
    assert found["distance_grey_levels"][found["passes"].index(10)] < 0.01
