"""Figures of `benchmarks.gpu`: a row for each case, verdicts on each engine, and a table as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from self2self.bench.cases import PLAIN, BenchmarkCase
from self2self.bench.measure import spread

LARGE_BATCH = 16
"""Smallest batch for which the share of the peak is judged."""
MINIMUM_RATIO, MAXIMUM_MASK_SHARE, MINIMUM_PEAK_SHARE = 8.0, 0.10, 0.40
"""Targets: ratio to the plain loop, share of the time for masks, and share of the peak."""


def entries(cases: Sequence[BenchmarkCase], peaks: Sequence[float], gflop: float) -> list[dict[str, Any]]:
    """Compute the figures of every case; the first case is the plain loop."""
    peak = spread(peaks)["median"]
    rows = []
    for case in cases:
        row = case.entry(cases[0], gflop, None if case.precision == "fp32" else peak)
        # On a GPU the parts overlap, so their times cannot be separated; only the masks were measured alone.
        del row["parts_seconds_per_pass"], row["memory"]
        row["mask_share"] = spread([timing.masks / timing.seconds for timing in case.timings])
        rows.append(row)
    return rows


def verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judge each engine and precision: its fastest batch, and whether it reaches the targets."""
    found = []
    keys = dict.fromkeys((row["engine"], row["precision"]) for row in rows if row["engine"] != PLAIN)
    for engine, precision in keys:
        own = [row for row in rows if (row["engine"], row["precision"]) == (engine, precision)]
        best = max(own, key=lambda row: float(row["passes_per_second"]["median"]))
        large = [row["share_of_matrix_product"] for row in own if row["batch"] >= LARGE_BATCH]
        share = max((value for value in large if value is not None), default=None)
        found.append(
            {
                "engine": engine,
                "precision": precision,
                "batch": best["batch"],
                "passes_per_second": best["passes_per_second"]["median"],
                "ratio_to_plain": best["ratio_to_plain"]["median"],
                "mask_share": best["mask_share"]["median"],
                "peak_share": share,
                "ratio_reached": best["ratio_to_plain"]["median"] >= MINIMUM_RATIO,
                "masks_reached": best["mask_share"]["median"] <= MAXIMUM_MASK_SHARE,
                "peak_reached": None if share is None else share >= MINIMUM_PEAK_SHARE,
            }
        )
    return found


def table(result: dict[str, Any]) -> str:
    """Format the result as text."""
    peak = result["matrix_product_gflops"]["median"]
    lines = [f"{result['gpu']['name']}: float16 matrix product {peak / 1000:.1f} TFLOP/s"]
    lines.append(f"{'engine':10}{'type':6}{'batch':>6}{'passes/s':>11}{'ratio':>8}{'masks':>8}{'peak':>7}")
    for row in result["cases"]:
        share = row["share_of_matrix_product"]
        masks = "" if row["engine"] == PLAIN else f"{row['mask_share']['median']:.1%}"
        lines.append(
            f"{row['engine']:10}{row['precision']:6}{row['batch']:6}{row['passes_per_second']['median']:11.1f}"
            f"{row['ratio_to_plain']['median']:8.2f}{masks:>8}{'' if share is None else format(share, '.1%'):>7}"
        )
    for best in result["verdicts"]:
        parts = [
            f"ratio {best['ratio_to_plain']:.1f} (at least {MINIMUM_RATIO:g}: {_reached(best['ratio_reached'])})",
            f"masks {best['mask_share']:.1%} (at most {MAXIMUM_MASK_SHARE:.0%}: {_reached(best['masks_reached'])})",
        ]
        if best["peak_share"] is not None:
            parts.append(
                f"peak {best['peak_share']:.1%} (at least {MINIMUM_PEAK_SHARE:.0%}: {_reached(best['peak_reached'])})"
            )
        lines.append(f"{best['engine']} {best['precision']}: {', '.join(parts)}")
    lines += [f"{name}: {problem}" for name, problem in result["problems"].items()]
    return "\n".join(lines)


def _reached(reached: bool) -> str:
    return "reached" if reached else "not reached"
