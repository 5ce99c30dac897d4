"""A published protocol with all rivals, on the same files in the same run.

    python -m benchmarks.protocol cbsd68-crops-25 DATA -o RESULT.json

NAME is one of `benchmarks.protocols`; DATA is the folder of evaluation images, whose splits `benchmarks/sets.json` has.
Without options, all images of the tuning split run with all methods that can run here, but for those that take hours.

- ``--split validation`` needs ``--why TEXT``; each look is written down in `dev/log/validation-looks.md`.
- ``--split test`` needs ``--release VERSION``, which may be run once for each protocol.
- ``--method bm3d`` takes some methods alone, and ``--method bm3d:true`` one way of telling σ: ``true`` is that of the
  noise that was made, ``estimated`` is scikit-image's estimate, and ``grid`` tries all of ``--grid``. Two rows come
  from the grid: the best σ for each image, and the one σ that is best for the whole set. Both are chosen with the
  clean images.
- ``--limit N`` takes the first N images, ``--every N`` every N-th, and ``--crop SIZE`` their middles, for a quick look.

The result is written after every row, and the same command goes on where it was stopped. A table lies beside it as
Markdown. Scores are those of `benchmarks.scores`. Seconds are wall clock of the method alone on ``--cores`` cores, with
the estimate of σ where there is one, but without the start of Python; those of the programs of others (CAREamics,
Aydin) have it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import FloatArray, Pair
from benchmarks.protocols import PROTOCOLS, Case
from benchmarks.results_file import ResultsFile, Row
from benchmarks.rivals import Rival, make_rivals
from benchmarks.rivals.rival import estimated_sigma
from benchmarks.scores import SCORES, scores
from benchmarks.sets import LOOKS, SPLITS, SplitError, check_sets, load_sets, log_look
from benchmarks.tables import table
from self2self.bench.environment import shown_command
from self2self.machine.files import atomic_write

PROGRAM = "python -m benchmarks.protocol"
PUBLISHED = Path(__file__).with_name("published.json")
WAYS = ("true", "estimated", "grid")
GRID = (2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0)
CORES = 2
BEST, FIXED = "best σ of the grid", "one σ for the set"
Asked = list[tuple[Rival, str]]


class Clock:
    """Wall-clock and processor seconds since it was made, those of finished child processes among them."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), sum(os.times()[:4])

    def row(self) -> dict[str, float]:
        """For a row of a result, with the load of the machine, which tells how far to trust the wall clock."""
        return {
            "seconds": round(time.perf_counter() - self._wall, 3),
            "cpu_seconds": round(sum(os.times()[:4]) - self._processor, 3),
            "load": round(os.getloadavg()[0], 1),
        }


def use_cores(count: int) -> None:
    """Keep this process, and those that it starts, on the first `count` cores that it may use."""
    import torch

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    torch.set_num_threads(count)


def chosen(texts: list[str], rivals: dict[str, Rival]) -> Asked:
    """What ``--method`` asks for: each rival with each way of telling σ; ``""`` where it is told none.

    Raises:
        SystemExit: a method or a way is not known.
    """
    asked: Asked = []
    for text in texts or [name for name, rival in rivals.items() if not rival.slow]:
        name, _, way = text.partition(":")
        if name not in rivals:
            raise SystemExit(f"--method {text}: expected one of: {', '.join(rivals)}")
        ways = WAYS if rivals[name].takes_sigma else ("",)
        if way and way not in ways:
            raise SystemExit(
                f"--method {text}: {name} is {'told σ as ' + ', '.join(WAYS) if ways != ('',) else 'not told σ'}"
            )
        asked += [(rivals[name], one) for one in ((way,) if way else ways)]
    return asked


def measure(case: Case, pair: Pair, asked: Asked, grid: Iterable[float], file: ResultsFile) -> None:
    """All methods on one image, but those whose rows are there already."""
    if file.find(case.name, "noisy", {}) is None:
        file.put({"image": case.name, "method": "noisy", "inputs": {}, **scores(pair.noisy, pair.clean)})
    for rival, way in asked:
        inputs = rival.inputs(pair)
        if way == "grid":
            for sigma in grid:
                name = f"{rival.name}, σ {sigma:g}"
                _row(case, pair, name, {**inputs, "sigma": sigma}, rival, lambda sigma=sigma: sigma, file, grid=True)  # type: ignore[misc]
        elif way == "estimated":
            _row(case, pair, f"{rival.name}, σ estimated", inputs, rival, lambda: estimated_sigma(pair.noisy), file)
        elif way == "true":
            if (true := pair.sigma) is not None:
                told = {**inputs, "sigma": true}
                _row(case, pair, f"{rival.name}, σ true", told, rival, lambda true=true: true, file)  # type: ignore[misc]
        else:
            _row(case, pair, rival.name, inputs, rival, lambda: 0.0, file)


def _row(
    case: Case,
    pair: Pair,
    name: str,
    inputs: Row,
    rival: Rival,
    sigma: Callable[[], float],
    file: ResultsFile,
    **also: Any,
) -> None:
    if file.find(case.name, name, inputs) is not None:
        return
    clock = Clock()
    told = sigma()
    try:
        result: FloatArray = rival.denoise(pair, told)
    except RuntimeError as error:
        # Of programs of others. There is no row, so that the next call tries again.
        print(f"{case.name:26} {name:32} left out: {error}", flush=True)
        return
    row = {"image": case.name, "method": name, "inputs": inputs, **clock.row(), **scores(result, pair.clean), **also}
    if rival.takes_sigma:
        row["sigma"] = round(told, 2)
    file.put(row)
    print(f"{case.name:26} {name:32} {row['psnr']:6.2f} dB  {row['ssim']:.3f}  {row['seconds']:7.1f} s", flush=True)


def add_best_of_grid(file: ResultsFile) -> None:
    """From the rows of a grid: the best σ for each image, and the one σ whose mean PSNR over all images is best.

    The second is left out while images differ in the σ that they have. Both have the seconds of one run.
    """
    runs: dict[str, dict[str, dict[float, Row]]] = {}
    for row in file.rows:
        if row.get("grid"):
            rival = row["method"].rpartition(", σ ")[0]
            runs.setdefault(rival, {}).setdefault(row["image"], {})[row["sigma"]] = row
    for rival, images in runs.items():
        for image, levels in images.items():
            best = max(levels.values(), key=lambda row: row["psnr"])
            _derive(file, image, f"{rival}, {BEST}", best, levels)
        shared = set.intersection(*(set(levels) for levels in images.values()))
        if all(set(levels) == shared for levels in images.values()):
            one = max(sorted(shared), key=lambda sigma: np.mean([levels[sigma]["psnr"] for levels in images.values()]))
            for image, levels in images.items():
                _derive(file, image, f"{rival}, {FIXED}", levels[one], levels)


def _derive(file: ResultsFile, image: str, method: str, source: Row, levels: dict[float, Row]) -> None:
    row = {key: value for key, value in source.items() if key not in ("inputs", "grid")}
    row |= {"image": image, "method": method, "inputs": {"of": sorted(levels)}}
    if file.find(image, method, row["inputs"]) != row:
        file.put(row)


def knowledge(method: str, rivals: dict[str, Rival]) -> str:
    """What the method of a row is told, in a few words."""
    name = method.partition(", ")[0]
    return rivals[name].knows if name in rivals else ""


def summary(result: dict[str, Any], rivals: dict[str, Rival]) -> str:
    """A line for each method, but for the single σ of a grid; figures of papers in a column of their own.

    Scores are means over the images, seconds are medians.
    """
    rows = result["rows"]
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    printed = published["psnr"].get(result["settings"]["protocol"], {})
    lines, sources = [], []
    for method in dict.fromkeys(row["method"] for row in rows if not row.get("grid")):
        own = [row for row in rows if row["method"] == method]
        means = [
            f"{np.mean([row[key] for row in own]):.{digits}f}"
            for key, digits in (("psnr", 2), ("ssim", 4), ("gmsd", 4))
        ]
        times = [
            f"{np.median([row[key] for row in own]):.1f}" if all(key in row for row in own) else ""
            for key in ("seconds", "cpu_seconds")
        ]
        paper, source = printed.get(method, ("", ""))
        sources += [source] if source else []
        lines.append([method, knowledge(method, rivals), *means, *times, str(len(own)), str(paper)])
    head = [
        "method",
        "knows",
        "PSNR",
        "SSIM",
        "GMSD",
        "seconds",
        "processor seconds",
        "images",
        "PSNR in papers, whole set",
    ]
    notes = [f"Papers: {published['sources'][name]}." for name in dict.fromkeys(sources)]
    return "\n\n".join([table(head, lines), *notes]) + "\n"


def log_this_look(args: argparse.Namespace) -> None:
    """Write a look at validation or test images down, or refuse it.

    Raises:
        SplitError: there is no reason, or a release has been tested already.
    """
    why = args.why
    if args.split == "test":
        if not args.release:
            raise SplitError("test images are run once for a release: say for which with --release VERSION.")
        why = f"release {args.release}, {args.name}" + (f": {why}" if why else "")
        done = LOOKS.is_file() and f"| release {args.release}, {args.name}" in LOOKS.read_text(encoding="utf-8")
        if done and not args.output.is_file():
            raise SplitError(f"{args.name} has been run for release {args.release} already ({LOOKS.name}).")
    log_look(args.split, shown_command(PROGRAM), why)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", choices=sorted(PROTOCOLS), help=", ".join(PROTOCOLS))
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the evaluation images")
    parser.add_argument("--split", choices=SPLITS, default="tuning")
    parser.add_argument("--why", default="", metavar="TEXT", help="why validation images are looked at")
    parser.add_argument("--release", default="", metavar="VERSION", help="for which test images are run")
    parser.add_argument("--method", action="append", default=[], metavar="NAME[:SIGMA]", help="may be repeated")
    parser.add_argument(
        "--grid", type=float, nargs="+", default=list(GRID), metavar="SIGMA", help="of grid, in grey levels"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images alone")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th image alone")
    parser.add_argument("--crop", type=int, metavar="SIZE", help="the middles of the images")
    parser.add_argument("--cores", type=int, default=CORES, help="cores that all methods share")
    parser.add_argument("--anchors", type=Path, help="folder of the weights of rivals; default: DATA/anchors")
    parser.add_argument("--external-python", metavar="PATH", help="interpreter that has CAREamics and Aydin")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON; the table lies beside it")
    args = parser.parse_args()

    sets = load_sets()
    check_sets(args.data, sets)
    protocol = PROTOCOLS[args.name]
    cases = protocol.cases(args.data, sets[protocol.data_set], args.split)[:: args.every][: args.limit]
    if not cases:
        raise SystemExit(f"{args.name}: there is no {args.split} image in the data folder.")
    rivals = make_rivals(args.anchors or args.data / "anchors", args.external_python)
    asked = chosen(args.method, rivals)
    reasons = {rival.name: rival.missing() for rival in dict.fromkeys(rival for rival, _ in asked)}
    for name, reason in reasons.items():
        if reason:
            print(f"{name}: left out, {reason}")
    asked = [(rival, way) for rival, way in asked if not reasons[rival.name]]
    settings = {"protocol": args.name, "split": args.split, "crop": args.crop, "cores": args.cores, "scores": SCORES}
    file = ResultsFile(args.output, PROGRAM, settings)
    log_this_look(args)
    use_cores(args.cores)

    began = time.perf_counter()
    for number, case in enumerate(cases, 1):
        measure(case, case.load(args.crop), asked, args.grid, file)
        passed = time.perf_counter() - began
        left = passed / number * (len(cases) - number)
        print(f"{number} of {len(cases)} images after {passed:.0f} s; about {left:.0f} s left", flush=True)
    add_best_of_grid(file)
    text = summary(json.loads(args.output.read_text(encoding="utf-8")), rivals)
    atomic_write(args.output.with_suffix(".md"), text.encode())
    print(f"\n{text}\n{args.name}, {args.split}: {time.perf_counter() - began:.0f} s on {args.cores} cores")


if __name__ == "__main__":
    main()
