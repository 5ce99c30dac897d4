"""Fill the tables of a page from results files, so that every figure on it is one of a result.

    python -m benchmarks.pages docs/quality.md

A table stands between two comments. The first one says what it shows, as JSON:

    <!-- table {"results": {"PSNR": "protocol-polyu.json"}, "methods": {"noisy": "noisy", "self2self": "`fast`"}} -->
    <!-- end of table -->

- ``results``: files in `benchmarks/results`, by name of their column.
- ``methods``: methods of the files, by the name that the page gives them. The best of a column is bold.
- ``scores`` (with a single file): the columns, instead of PSNR alone: ``psnr``, ``ssim``, ``gmsd``.
- ``by``: ``"method"`` (the default) has a line for each method, with means over the images that all methods share;
  ``"image"`` has a line for each image and a column for each method, with PSNR.
- ``images``: only images whose names contain this text.
- ``made_by``: ``"megapixels"`` or ``"zoo"`` (with a single file): the table of that benchmark; ``columns`` chooses some
  of its columns by their number.

Results whose rows have more than an image and a method have tables of another form, with ``rows`` in place of
``methods``. A cell is the mean over all rows that belong to it:

    <!-- table {"results": {"": "R.json"}, "rows": {"rate": "rate"}, "columns": "steps", "values": {"psnr": ""}} -->
    <!-- end of table -->

- ``rows``: the fields that tell the lines apart, and the names of their columns.
- ``columns``: the field that tells the other columns apart; without it, each of ``values`` has a column.
- ``values``: fields of the cells and their names; with ``columns`` a single one.
- ``where``: only rows with these values of these fields.
- ``names``: what the page calls some of the values of ``rows``; others keep their own.
- ``digits``: of numbers, 2 by default.
- ``heads``: with ``columns``, which of its values have a column, in which order, and what the page calls them.
- ``best``: ``"max"`` or ``"min"``, if the best cell of each column is to be bold; of each row with
  ``"best_of": "row"``.

With ``--check`` nothing is written, and the exit code is 1 if a table differs from its results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import megapixels, zoo
from benchmarks.tables import table

RESULTS = Path(__file__).parent / "results"
TABLE = re.compile(r"<!-- table (\{.*?\}) -->\n.*?<!-- end of table -->", re.DOTALL)
MADE_BY: dict[str, Callable[[Any], list[list[str]]]] = {"megapixels": megapixels.page_table, "zoo": zoo.page_table}
DIGITS = {"psnr": 2, "ssim": 3, "gmsd": 4}
SMALLER_IS_BETTER = {"gmsd"}
Scores = dict[str, dict[str, float]]
"""Scores by method and image."""


def filled(text: str, folder: Path = RESULTS) -> str:
    """`text` with all tables made anew from the results in `folder`.

    Raises:
        KeyError: a table asks for a method that its result does not have.
    """

    def fill(found: re.Match[str]) -> str:
        lines = made_table(json.loads(found[1]), folder)
        return f"<!-- table {found[1]} -->\n{lines}\n<!-- end of table -->"

    return TABLE.sub(fill, text)


def made_table(what: Mapping[str, Any], folder: Path) -> str:
    """The table, as Markdown, that `what` describes."""
    if "made_by" in what:
        (file,) = what["results"].values()
        lines = MADE_BY[what["made_by"]](json.loads((folder / file).read_text())["rows"])
        chosen = what.get("columns", range(len(lines[0])))
        header, *rest = [[line[column] for column in chosen] for line in lines]
        return table(header, rest)
    if "rows" in what:
        (file,) = what["results"].values()
        return by_fields(json.loads((folder / file).read_text())["rows"], what)
    methods, part = what["methods"], what.get("images", "")
    if what.get("by", "method") == "image":
        (file,) = what["results"].values()
        return by_image(scores_of(folder / file, "psnr", methods, part), methods)
    scores = what.get("scores", ["psnr"])
    columns = [
        (name if len(scores) == 1 else score.upper(), score, scores_of(folder / file, score, methods, part))
        for name, file in what["results"].items()
        for score in scores
    ]
    cells = [column_of(values, methods, score) for _, score, values in columns]
    lines = [[shown, *(column[row] for column in cells)] for row, shown in enumerate(methods.values())]
    return table(["method", *(name for name, _, _ in columns)], lines)


def scores_of(path: Path, score: str, methods: Mapping[str, str], part: str) -> Scores:
    """The scores of `methods` in a results file, for the images that all of them have finished."""
    rows = [row for row in json.loads(path.read_text())["rows"] if score in row and not row.get("unfinished")]
    by_method = {
        method: {row["image"]: row[score] for row in rows if row["method"] == method and part in row["image"]}
        for method in methods
    }
    if missing := [method for method, values in by_method.items() if not values]:
        raise KeyError(f"{path.name} has no {score} of {', '.join(missing)}")
    shared = [image for image in next(iter(by_method.values())) if all(image in v for v in by_method.values())]
    return {method: {image: values[image] for image in shared} for method, values in by_method.items()}


def column_of(scores: Scores, methods: Mapping[str, str], score: str) -> list[str]:
    """The means of one score in the order of `methods`, with the best in bold."""
    return with_best_bold([fmean(scores[method].values()) for method in methods], score)


def by_image(scores: Scores, methods: Mapping[str, str]) -> str:
    """A line for each image, and the mean."""
    images = list(next(iter(scores.values())))
    lines = [[image, *with_best_bold([scores[method][image] for method in methods], "psnr")] for image in images]
    lines.append(["mean", *column_of(scores, methods, "psnr")])
    return table(["image", *methods.values()], lines)


def by_fields(rows: Sequence[Mapping[str, Any]], what: Mapping[str, Any]) -> str:
    """A table of cells that are means over the rows with the same values of some fields.

    Raises:
        KeyError: no row has these fields.
    """
    lines, column, values = what["rows"], what.get("columns"), what["values"]
    needed = (*lines, *([column] if column else []))
    cells: dict[tuple[Any, ...], dict[Any, list[Any]]] = {}
    for row in rows:
        if all(row.get(key) == value for key, value in what.get("where", {}).items()) and set(needed) <= set(row):
            line = cells.setdefault(tuple(row[key] for key in lines), {})
            for field in (field for field in values if field in row):
                line.setdefault(row[column] if column else field, []).append(row[field])
    heads: list[Any] = list(what.get("heads", values if not column else ()))
    heads = heads or sorted({head for line in cells.values() for head in line})
    if not any(cells.values()):
        raise KeyError(f"no row has {', '.join((*needed, *values))} where {what.get('where', {})}")
    shown = [
        [cell_of(line[head], what.get("digits", 2)) if head in line else "" for head in heads]
        for line in cells.values()
    ]
    if "best" in what:
        shown = bold_in_lines(shown, min if what["best"] == "min" else max, what.get("best_of", "column"))
    names = what.get("names", {})
    starts = [[names.get(str(value), str(value)) for value in line] for line in cells]
    titles = [str(what.get("heads", values).get(head, head)) for head in heads]
    return table([*lines.values(), *titles], [[*start, *line] for start, line in zip(starts, shown, strict=True)])


def bold_in_lines(lines: list[list[str]], best: Callable[..., str], direction: str) -> list[list[str]]:
    """The lines with the best number of each ``"row"`` or ``"column"`` in bold; empty cells do not count."""
    if direction == "column":
        return transposed(bold_in_lines(transposed(lines), best, "row"))
    found = []
    for line in lines:
        chosen = best((text for text in line if text), key=float, default="")
        found.append([f"**{text}**" if text == chosen else text for text in line])
    return found


def transposed(lines: list[list[str]]) -> list[list[str]]:
    """The columns of `lines`."""
    return [list(column) for column in zip(*lines, strict=True)]


def cell_of(values: Sequence[Any], digits: int) -> str:
    """The mean of numbers as text; a text as it is; a whole number without digits."""
    first = values[0]
    if isinstance(first, str):
        return first
    if all(isinstance(value, int) for value in values) and len(set(values)) == 1:
        return str(first)
    return f"{fmean(values):.{digits}f}"


def with_best_bold(values: Sequence[float], score: str) -> list[str]:
    """The values as text; the best, as the text shows it, is bold."""
    texts = [f"{value:.{DIGITS[score]}f}" for value in values]
    best = (min if score in SMALLER_IS_BETTER else max)(texts, key=float)
    return [f"**{text}**" if text == best else text for text in texts]


def main() -> None:
    """Fill the tables of the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+", metavar="PAGE")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    differ = []
    for page in arguments.pages:
        text = page.read_text("utf-8")
        made = filled(text)
        if made != text:
            differ.append(page)
            if not arguments.check:
                page.write_text(made, "utf-8")
    if arguments.check and differ:
        print(f"not as the results are: {', '.join(map(str, differ))}. Make them: python -m benchmarks.pages PAGE")
        sys.exit(1)


if __name__ == "__main__":
    main()
