"""Answer an open question of the method: measure, draw, and keep the rows from which docs/studies.md is filled.

    python -m benchmarks.study components
    python -m benchmarks.study drop-rates --images chelsea --steps 4000 -o RESULT.json
    python -m benchmarks.pages docs/studies.md

NAME is one of:

- ``components``: the paper's recipe without one of its parts at a time; ``--picture`` shows what each part avoids.
- ``drop-rates``: drop rate and number of steps at three levels of noise, for ``paper`` and ``fast``.
- ``noises``: kinds of noise beside white noise, with rivals. ``--anchors`` is the folder with FFDNet's weights.
- ``cost``: seconds, peak memory and PSNR of all methods by the size of the image.
- ``passes``: PSNR and standard error by the number of passes; error against predicted standard deviation.

All images are samples of scikit-image, which are tuning images. The default is brief: few images, small crops, fewer
steps than the recipe has. ``--whole`` runs all images with all steps, which takes hours to days; other options change
single settings. How long it takes is said before it starts. The result is written after every part, and the same
command goes on where it was stopped. Scores are those of `benchmarks.scores`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.protocol import CORES, use_cores
from benchmarks.results_file import ResultsFile
from benchmarks.studies.study import IMAGES, Job, Settings, Study
from self2self.machine.files import atomic_path

PROGRAM = "python -m benchmarks.study"
NAMES = ("components", "drop-rates", "noises", "cost", "passes")
RESULTS = Path(__file__).parent / "results"


def study_called(name: str) -> Study:
    """The study `name`; its libraries are loaded only now."""
    found: Study = import_module(f"benchmarks.studies.{name.replace('-', '_')}").STUDY
    return found


def chosen_settings(study: Study, args: argparse.Namespace, pictures: Path) -> Settings:
    """The settings of the command line.

    Raises:
        SystemExit: an image is not known.
    """
    settings = study.whole if args.whole else study.brief
    given = {key: getattr(args, key) for key in ("side", "steps", "passes") if getattr(args, key) is not None}
    if args.images:
        if unknown := set(args.images) - set(IMAGES):
            raise SystemExit(f"--images {' '.join(sorted(unknown))}: expected some of: {', '.join(IMAGES)}")
        given["images"] = tuple(args.images)
    return replace(settings, **given, anchors=args.anchors, pictures=pictures)


def missing(jobs: list[Job], file: ResultsFile) -> list[Job]:
    """The jobs of which a row is not there yet, or depends on something that has changed."""
    return [job for job in jobs if any(file.find(job.image, method, job.inputs) is None for method in job.methods)]


def measure(study: Study, settings: Settings, file: ResultsFile) -> None:
    """Run the jobs that have no rows yet, and add the rows that follow from all."""
    left = missing(study.jobs(settings), file)
    total = sum(job.seconds for job in left)
    print(f"{study.question}\n{len(left)} parts, about {total / 60:.0f} minutes of one free core", flush=True)
    began = time.perf_counter()
    for number, job in enumerate(left, 1):
        for method, row in job.run().items():
            file.put({"image": job.image, "method": method, "inputs": job.inputs, **row})
            shown = f"{row['psnr']:6.2f} dB" if "psnr" in row else ""
            print(
                f"{time.perf_counter() - began:6.0f} s  {number}/{len(left)}  {job.image:28} {method} {shown}",
                flush=True,
            )
        # The rows of an interrupted study are consistent, too.
        for row in study.derived(file.rows):
            file.put({"inputs": {}, **row})


def main() -> None:
    """Measure what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", choices=NAMES, help=", ".join(NAMES))
    parser.add_argument("--whole", action="store_true", help="all images and all steps")
    parser.add_argument("--images", nargs="+", metavar="IMAGE", help=f"some of: {', '.join(IMAGES)}")
    parser.add_argument("--side", type=int, metavar="PIXELS", help="of the crops; of cost, the largest")
    parser.add_argument("--steps", type=int, help="of fits with the paper's recipe")
    parser.add_argument("--passes", type=int, help="largest number of passes")
    parser.add_argument("--anchors", type=Path, metavar="FOLDER", help="weights of FFDNet and DnCNN")
    parser.add_argument("--cores", type=int, default=CORES, help="cores that all methods share")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the result (SVG or PNG)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="show results side by side (components)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="RESULT", help="default: benchmarks/results/study-NAME.json"
    )
    parser.add_argument("--draw-only", action="store_true", help="measure nothing, draw the rows that are there")
    args = parser.parse_args()
    study = study_called(args.name)
    output = args.output or RESULTS / f"study-{args.name}.json"
    settings = chosen_settings(study, args, output.with_suffix(".pictures"))
    if args.picture is not None and study.picture is None:
        raise SystemExit(f"--picture: {args.name} has none.")
    file = ResultsFile(output, PROGRAM, {"study": study.name, **settings.to_json()})
    use_cores(args.cores)
    if not args.draw_only:
        measure(study, settings, file)
    if args.plot is not None:
        with atomic_path(args.plot) as path:
            study.draw(file.rows).savefig(path, dpi=110)
    if args.picture is not None and study.picture is not None:
        study.picture(settings, args.picture)


if __name__ == "__main__":
    main()
