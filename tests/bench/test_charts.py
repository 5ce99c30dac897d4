"""The axes of the charts on the bench page."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

from self2self.bench.charts import distance_chart


@pytest.mark.parametrize("distances", [[4.0, 3.1, 2.2], [40.0, 3.0, 0.2]])
def test_axes_name_plain_numbers(distances: list[float]) -> None:
    figure = distance_chart({"passes": [1, 10, 60], "distance_grey_levels": distances})
    figure.canvas.draw()
    (axes,) = figure.axes
    for axis in (axes.xaxis, axes.yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels(which="both")]
        shown = [text for text in labels if text]
        assert len(shown) >= 2
        assert [float(text) for text in shown], "tick labels are plain numbers, not powers of ten"
