"""The charts of the page, as matplotlib figures that are narrow enough for a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from self2self.bench.cases import PARTS, PLAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 3.7
"""Width of a chart in inches. A phone shows it at 339 pixels, where text of 8 points is still 10 pixels high."""
COLOURS = ("#1f6fb2", "#e08a1e", "#2c9a6b", "#8a5cc2", "#c44e52")
GREY = "#98a3b0"
# Colours of Okabe and Ito, because colour alone separates the parts of a bar, also for colour-blind readers.
PART_COLOURS = dict(zip(PARTS, ("#cc79a7", "#e69f00", "#0072b2", "#56b4e9"), strict=True))


def throughput_chart(cases: list[dict[str, Any]]) -> Figure:
    """Draw passes per second by engine and batch, with the 10th and 90th percentile; a line marks the plain loop."""
    figure, axes = _bars_figure(cases)
    for row, case in enumerate(cases):
        rate = case["passes_per_second"]
        axes.barh(row, rate["median"], color=_colour(case, cases), height=0.72)
        axes.plot([rate["p10"], rate["p90"]], [row, row], color="#1c2430", linewidth=1.2, solid_capstyle="butt")
        text = f"{rate['median']:.2f}"
        if case["engine"] != PLAIN:
            text += f"  ({case['ratio_to_plain']['median']:.2f}x)"
        axes.annotate(text, (rate["p90"], row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    for case in cases:
        if case["engine"] == PLAIN:
            axes.axvline(case["passes_per_second"]["median"], color=GREY, linestyle="--", linewidth=0.9, zorder=0)
    axes.set_xlim(0, 1.6 * max(case["passes_per_second"]["p90"] for case in cases))
    axes.set_xlabel("passes per second")
    return figure


def memory_chart(cases: list[dict[str, Any]]) -> Figure | None:
    """Draw the peak memory of a fresh process, without the interpreter's own; None if no case has memory."""
    cases = [case for case in cases if case["memory"] is not None]
    if not cases:
        return None
    figure, axes = _bars_figure(cases)
    for row, case in enumerate(cases):
        memory = case["memory"]
        loaded = 1e-6 * (memory["loaded_bytes"] - memory["interpreter_bytes"])
        peak = 1e-6 * memory["growth_bytes"]
        axes.barh(row, peak, color=_colour(case, cases), height=0.72)
        axes.barh(row, loaded, color="#1c2430", alpha=0.25, height=0.72)
        axes.annotate(f"{peak:.0f}", (peak, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, 1.15e-6 * max(case["memory"]["growth_bytes"] for case in cases))
    axes.set_xlabel("MB")
    return figure


def parts_chart(cases: list[dict[str, Any]]) -> Figure | None:
    """Draw milliseconds per pass by part; None if there are no engines."""
    cases = [case for case in cases if case["parts_seconds_per_pass"] is not None]
    if not cases:
        return None
    figure, axes = _bars_figure(cases, legend=True)
    for row, case in enumerate(cases):
        left = 0.0
        for name in PARTS:
            part = case["parts_seconds_per_pass"][name]
            if part is None:
                continue
            width = 1e3 * part["median"]
            label = name if name not in axes.get_legend_handles_labels()[1] else None
            axes.barh(row, width, left=left, color=PART_COLOURS[name], height=0.72, label=label)
            left += width
    axes.set_xlabel("milliseconds per pass")
    figure.legend(loc="upper center", ncols=len(PARTS), frameon=False, fontsize=8, columnspacing=1.2, handlelength=1.2)
    return figure


def distance_chart(curve: dict[str, Any]) -> Figure:
    """Draw the RMS difference between the mean of n passes and the mean of all passes."""
    figure, axes = _line_figure()
    pairs = [(n, d) for n, d in zip(curve["passes"], curve["distance_grey_levels"], strict=True) if d is not None]
    axes.plot(*zip(*pairs, strict=True), color=COLOURS[0], marker="o", markersize=3.5)
    axes.set_yscale("log")
    _plain_numbers(axes.yaxis)
    axes.set_ylabel("grey levels (of 255)")
    return figure


def psnr_chart(curve: dict[str, Any]) -> Figure:
    """Draw the PSNR of the mean of n passes."""
    figure, axes = _line_figure()
    axes.plot(curve["passes"], curve["psnr"], color=COLOURS[2], marker="o", markersize=3.5)
    axes.set_ylabel("PSNR (dB)")
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, length=3)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return figure, axes


def _bars_figure(cases: list[dict[str, Any]], *, legend: bool = False) -> tuple[Figure, Axes]:
    """Return axes with a row for each case, the first on top."""
    figure, axes = _figure(0.75 + 0.27 * len(cases) + 0.35 * legend)
    if legend:
        # Constrained layout reserves no space for a legend inside the figure.
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.3 / figure.get_figheight()))  # type: ignore[union-attr, call-arg]
    axes.set_yticks(range(len(cases)), [_label(case) for case in cases])
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#e8edf2")
    return figure, axes


def _line_figure() -> tuple[Figure, Axes]:
    figure, axes = _figure(2.7)
    axes.set_xscale("log")
    axes.set_xlabel("passes")
    _plain_numbers(axes.xaxis)
    axes.set_axisbelow(True)
    axes.grid(color="#e8edf2", which="major")
    return figure, axes


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with 3 instead of 3×10⁰; on a short range, more than the powers of ten have labels."""
    from matplotlib.ticker import LogFormatter

    class PlainFormatter(LogFormatter):
        """Chooses what has a label as `LogFormatter` does, whose texts differ between versions of matplotlib."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(PlainFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


def _label(case: dict[str, Any]) -> str:
    return "plain loop" if case["engine"] == PLAIN else f"{case['engine']}  batch {case['batch']}"


def _colour(case: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    """Return the colour of the case's engine; the plain loop is grey."""
    if case["engine"] == PLAIN:
        return GREY
    names = list(dict.fromkeys(other["engine"] for other in cases if other["engine"] != PLAIN))
    return COLOURS[names.index(case["engine"]) % len(COLOURS)]
