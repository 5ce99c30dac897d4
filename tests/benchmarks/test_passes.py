"""The benchmark of passes: summary, kept fits, and the plot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import passes as benchmark
from benchmarks.pairs import Pair
from benchmarks.passes import plot, summary
from self2self.runtime.model import Model, load_model
from self2self.train.recipes import recipe_for
from tests.conftest import Fitted


def curve(*points: tuple[int, float, float]) -> list[dict[str, float]]:
    return [{"passes": passes, "seconds": seconds, "psnr": psnr} for passes, seconds, psnr in points]


TABLE = {
    "independent": curve((10, 1.0, 29.0), (100, 10.0, 29.991), (500, 50.0, 30.0)),
    "balanced": curve((10, 0.9, 29.995), (20, 1.9, 29.98), (40, 4.0, 29.992), (80, 8.0, 30.0)),
    "worse": curve((500, 50.0, 29.0)),
    "auto": curve((80, 7.0, 30.1)),
}


def test_the_first_point_after_which_nothing_is_worse() -> None:
    found = summary(TABLE)
    assert found["worse"] is None
    for way, passes, share, gain in (
        ("independent", 100, 0.2, -0.009),
        # Ten passes reach the PSNR by chance, because twenty do not.
        ("balanced", 40, 0.08, -0.008),
        ("auto", 80, 0.14, 0.1),
    ):
        point = found[way]
        assert point is not None
        assert point["passes"] == passes
        assert point["share_of_seconds"] == pytest.approx(share)
        assert point["psnr_less_anchor"] == pytest.approx(gain)


def test_a_kept_fit_belongs_to_its_start_weights(
    tmp_path: Path, tiny: Fitted, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[float] = []

    def fit(noisy: object, recipe: object, state: float, **_: object) -> float:
        fitted.append(state)
        return state

    @contextmanager
    def exported(*_: object) -> Iterator[Model]:
        yield load_model(tiny_onnx)

    monkeypatch.setattr(benchmark, "fit", fit)
    monkeypatch.setattr(benchmark, "exported", exported)
    monkeypatch.setattr(benchmark, "new_state", lambda *arguments: float(arguments[-1]["head.bias"][0]))
    image = np.zeros((3, 8, 8), np.float32)
    pair = Pair("grey", image, image, None)
    for start in (1.0, 1.0, 2.0, 1.0):
        monkeypatch.setattr(
            benchmark, "start_weights_of", lambda *_, start=start: {"head.bias": torch.full((3,), start)}
        )
        assert benchmark.fitted_model(pair, recipe_for("fast"), tmp_path).contract == tiny.contract
    assert fitted == [1.0, 2.0]


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    plot(TABLE, tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.count('id="axes_') == 2
    assert drawn.count('id="legend_') == 1
