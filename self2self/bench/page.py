"""Write a result of `self2self bench` as one self-contained HTML page with charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from self2self.bench.charts import distance_chart, memory_chart, parts_chart, psnr_chart, throughput_chart
from self2self.bench.table import case_name
from self2self.report.html import inline_svg, render

TEMPLATE = Path(__file__).parent / "page.html.j2"


def page(result: dict[str, Any]) -> str:
    """Return the whole page as HTML."""
    sections = []
    for size in result["sizes"]:
        name = f"{size['height']}x{size['width']}"
        cases = [c for c in result["cases"] if (c["height"], c["width"]) == (size["height"], size["width"])]
        charts: list[dict[str, Any]] = [
            {
                "title": "Throughput",
                "note": "Median over the rounds; the black line spans the 10th to the 90th percentile. In brackets: "
                "the ratio to the plain PyTorch loop (dashed line).",
                "svg": inline_svg(throughput_chart(cases), f"Throughput at {name}"),
            }
        ]
        memory = memory_chart(cases)
        if memory is not None:
            charts.append(
                {
                    "title": "Peak memory",
                    "note": "Each case runs in a fresh process; the bare interpreter's memory is subtracted. Shaded: "
                    "libraries and model, before the first pass.",
                    "svg": inline_svg(memory, f"Peak memory at {name}"),
                }
            )
        parts = parts_chart(cases)
        if parts is not None:
            charts.append(
                {
                    "title": "Where the time goes",
                    "note": "Parts of one pass. Where an engine cannot separate copies, they count as compute.",
                    "svg": inline_svg(parts, f"Parts of a pass at {name}"),
                }
            )
        sections.append({"name": name, "size": size, "cases": cases, "charts": charts})
    return render(
        TEMPLATE,
        {
            "title": "self2self bench",
            "result": result,
            "sections": sections,
            "curves": _curves(result["convergence"]),
            "case_name": case_name,
        },
    )


def _curves(curve: dict[str, Any] | None) -> list[dict[str, Any]]:
    if curve is None:
        return []
    masks = "balanced masks" if curve["balanced_masks"] else "independent masks"
    drawn = f"Image of {curve['height']}x{curve['width']} pixels, fitted with the recipe {curve['recipe']}. "
    drawn += f"Passes with {masks}{' and mirrored images in turn' if curve['flips'] else ''}."
    curves = []
    if curve["psnr"] is not None:
        curves.append(
            {
                "title": "PSNR against passes",
                "note": f"PSNR of the clamped mean against the clean reference. {drawn}",
                "svg": inline_svg(psnr_chart(curve), "PSNR against passes"),
            }
        )
    if len(curve["passes"]) > 1:
        last = curve["passes"][-1]
        curves.append(
            {
                "title": "Convergence",
                "note": f"RMS difference between the mean of n passes and the mean of all {last}. It shows how much "
                "the image still changes, not how good the image is. Near the right end it is too small, because "
                f"both means share most of their passes. {drawn}",
                "svg": inline_svg(distance_chart(curve), "Distance to the last mean against passes"),
            }
        )
    return curves
