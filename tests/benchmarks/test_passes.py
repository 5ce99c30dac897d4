"""When a way of drawing passes is as good as all independent ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.passes import plot, summary


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
        # Ten passes are as good by chance, because twenty are not.
        ("balanced", 40, 0.08, -0.008),
        ("auto", 80, 0.14, 0.1),
    ):
        point = found[way]
        assert point is not None
        assert point["passes"] == passes
        assert point["share_of_seconds"] == pytest.approx(share)
        assert point["psnr_less_anchor"] == pytest.approx(gain)


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    plot(TABLE, tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.count('id="axes_') == 2
    assert drawn.count('id="legend_') == 1
