"""Format a result of `self2self bench` as text with lines of at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from self2self.bench.cases import PARTS, PLAIN

COLUMNS = (
    ("engine", 8),
    ("batch", 6),
    ("passes/s", 9),
    ("p10-p90", 12),
    ("ratio", 6),
    ("p10-p90", 10),
    ("Mpx/s", 6),
    ("masks", 6),
    ("copies", 7),
    ("compute", 8),
    ("reduce", 7),
    ("prep", 5),
    ("MB", 5),
    ("peak", 5),
)
"""Headings and widths of the columns; a width includes the gap before the column."""


def text(result: dict[str, Any]) -> str:
    """Format the whole result: machine, one table for each size, the convergence curve, and the comparison."""
    environment, model = result["environment"], result["model"]
    gpu = f", {environment['gpu']}" if environment["gpu"] else ""
    lines = [
        f"{environment['cpu']}, {environment['cpus']} CPUs, PyTorch threads {environment['threads']}{gpu}",
        ", ".join(result["engines"].values()),
        f"{model['source']}, recipe {model['recipe']}, {model['parameters']:,} parameters, {model['precision']}",
    ]
    for size in result["sizes"]:
        lines += ["", *size_lines(size, result["cases"])]
    lines += [f"{name}: {problem}" for name, problem in result["problems"].items()]
    lines += [
        "",
        "ratio: speed relative to the plain PyTorch loop in the same round; Mpx/s: megapixels times passes/s;",
    ]
    lines += ["masks, copies, compute, reduce: ms per pass; prep: seconds to load the engine; MB: peak memory of a"]
    lines += ["fresh process without Python's own; peak: share of the matrix product's speed."]
    lines += [f"Medians of {result['rounds']} rounds."]
    if result["convergence"] is not None:
        lines += ["", *curve_lines(result["convergence"])]
    if result["against"] is not None:
        lines += ["", *comparison_lines(result["against"])]
    return "\n".join(lines)


def size_lines(size: dict[str, Any], cases: list[dict[str, Any]]) -> list[str]:
    """Format the table of one size."""
    peak = size["matrix_product_gflops"]
    lines = [
        f"{size['height']}x{size['width']}: {size['gflop_per_pass']:.1f} GFLOP per pass; "
        f"matrix product {peak['median']:.0f} GFLOP/s ({peak['p10']:.0f}-{peak['p90']:.0f})",
        _line([heading for heading, _ in COLUMNS]),
    ]
    lines += [_line(_cells(case)) for case in cases if _is_of(case, size)]
    return lines


def curve_lines(curve: dict[str, Any]) -> list[str]:
    """Format the convergence curve, one line for each recorded number of passes."""
    lines = [f"passes  RMS difference to the mean of {curve['passes'][-1]} (grey levels)"]
    if curve["psnr"] is not None:
        lines[0] += "  PSNR (dB)"
    for index, count in enumerate(curve["passes"]):
        distance = curve["distance_grey_levels"][index]
        line = f"{count:6}  {'' if distance is None else f'{distance:.3f}':>42}"
        value = None if curve["psnr"] is None else curve["psnr"][index]
        lines.append(line.rstrip() if value is None else f"{line}  {value:>9.3f}")
    return lines


def comparison_lines(against: dict[str, Any]) -> list[str]:
    """Format the differences from the earlier result."""
    lines = [f"against {against['file']}:"]
    lines += [f"  {difference}" for difference in against["differences"]]
    for verdict, word in (("regressions", "regression"), ("improvements", "improvement")):
        for case in against[verdict]:
            before, after = case["before"], case["after"]
            lines.append(
                f"  {word}: {case_name(case)}: {before['median']:.2f}x ({_between(before)}) then, "
                f"{after['median']:.2f}x ({_between(after)}) now, {100 * case['change']:+.0f} %"
            )
    lines.append(
        f"  {len(against['regressions'])} slower, {len(against['improvements'])} faster, "
        f"{len(against['unchanged'])} unchanged within noise"
    )
    for key, word in (("only_before", "not measured now"), ("only_after", "not measured then")):
        if against[key]:
            lines.append(f"  {word}: {', '.join(map(case_name, against[key]))}")
    return lines


def case_name(case: dict[str, Any]) -> str:
    """Return the name of a case, for example ``ort fp32 256x256 batch 4``."""
    return f"{case['engine']} {case['precision']} {case['height']}x{case['width']} batch {case['batch']}"


def _is_of(case: dict[str, Any], size: dict[str, Any]) -> bool:
    return bool(case["height"] == size["height"] and case["width"] == size["width"])


def _cells(case: dict[str, Any]) -> tuple[str, ...]:
    rate, ratio, parts, memory = (
        case[key] for key in ("passes_per_second", "ratio_to_plain", "parts_seconds_per_pass", "memory")
    )
    in_parts = ["" if parts is None else _milliseconds(parts[name]) for name in PARTS]
    prepare = case["prepare_seconds"]
    share = case["share_of_matrix_product"]
    return (
        case["engine"],
        str(case["batch"]),
        _short(rate["median"]),
        _between(rate),
        _short(ratio["median"]),
        "" if case["engine"] == PLAIN else _between(ratio),
        f"{case['megapixel_passes_per_second']['median']:.3f}",
        *in_parts,
        "" if prepare is None else f"{prepare:.2f}",
        "" if memory is None else f"{1e-6 * memory['growth_bytes']:.0f}",
        "" if share is None else f"{100 * share:.0f}%",
    )


def _milliseconds(spread: dict[str, float] | None) -> str:
    return "" if spread is None else f"{1e3 * spread['median']:.1f}"


def _between(spread: dict[str, float]) -> str:
    return f"{_short(spread['p10'])}-{_short(spread['p90'])}"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _line(cells: Sequence[str]) -> str:
    widths = [width for _, width in COLUMNS]
    line = cells[0].ljust(widths[0])
    # A cell that is wider than its column moves the next ones; a space always separates two cells.
    return (line + "".join(f" {c:>{w - 1}}" for c, w in zip(cells[1:], widths[1:], strict=True))).rstrip()
