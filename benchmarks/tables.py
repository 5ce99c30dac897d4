"""Print Markdown tables for the documentation, from results of the benchmarks of quality.

    python -m benchmarks.tables benchmarks/results/fit-quality-*.json benchmarks/results/stack-init.json

The results are those of `benchmarks.fit_quality`, `benchmarks.stack_init` and `benchmarks.fit_size`. PSNR is in dB; the
cell of an unfinished fit also shows its steps. A mean is empty unless the method has finished all images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]


def cell(rows: Rows, image: str, method: str) -> str:
    """Format the PSNR of one method on one image."""
    for row in rows:
        if (row["image"], row["method"]) == (image, method) and "psnr" in row:
            return f"{row['psnr']:.2f}" + (f" (step {row['steps']})" if row.get("unfinished") else "")
    return ""


def mean(rows: Rows, method: str, key: str, count: int) -> str:
    """Format the mean of `key` over all `count` images; empty if the method has not finished all of them."""
    values = [row[key] for row in rows if row["method"] == method and key in row and not row.get("unfinished")]
    return f"{np.mean(values):.{3 if key == 'ssim' else 2}f}" if len(values) == count else ""


def median_seconds(rows: Rows, method: str) -> str:
    """Format the median seconds of a method: fit and passes, or the whole time of a baseline."""
    chosen = [row for row in rows if row["method"] == method and not row.get("unfinished")]
    fits = [row["fit_seconds"] for row in chosen if "fit_seconds" in row]
    if fits:
        passes = [row["ensemble_seconds"] for row in chosen if "ensemble_seconds" in row]
        return f"{np.median(fits):.0f}" + (f" + {np.median(passes):.0f}" if passes else "")
    times = [row["seconds"] for row in chosen if "seconds" in row]
    return f"{np.median(times):.1f}" if times else ""


def table(head: list[str], lines: list[list[str]]) -> str:
    """Format a table in Markdown."""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def quality_table(rows: Rows) -> str:
    """Format a line for each image and a column for each method, followed by means and times."""
    images = list(dict.fromkeys(row["image"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = [[image, *(cell(rows, image, method) for method in methods)] for image in images]
    for name, key in (("mean", "psnr"), ("mean SSIM", "ssim")):
        lines.append([name, *(mean(rows, method, key, len(images)) for method in methods)])
    lines.append(["seconds: fit + passes", *(median_seconds(rows, method) for method in methods)])
    return table(["", *methods], lines)


def size_table(result: dict[str, Any]) -> str:
    """Format the seconds for each size."""
    lines = [
        [f"{size}x{size}", f"{seconds:.1f}", f"{result['ratio'][size]:.2f}"]
        for size, seconds in result["median_seconds"].items()
    ]
    return table(["size", "seconds", "ratio"], lines)


def main() -> None:
    """Print the tables of all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    for path in parser.parse_args().results:
        result = json.loads(path.read_text())
        print(f"\n{path.name}:")
        for command in result.get("commands", [result.get("command")]):
            print(f"`{command}`")
        print()
        print(quality_table(result["rows"]) if "rows" in result else size_table(result))


if __name__ == "__main__":
    main()
