"""Lists of image pairs for `benchmarks.fit_quality`, from a folder of evaluation images.

    python -m benchmarks.make_pairs DATA -o .

writes ``cbsd68-crops-sigma15.json``, ``-sigma25``, ``-sigma50``, ``polyu-crops.json`` and, a quarter of their
area, ``polyu-small-crops.json`` into the folder of `-o`. DATA holds

    crops.json                   {"crops": [{"name", "image", "top", "left"}, ...]}: squares of 128 pixels
    cbsd68/clean                 photographs of CBSD68
    cbsd68/noise15, 25 and 50    the same with Gaussian noise, clipped and rounded to 8 bits
    polyu/noisy, polyu/mean      crops of the PolyU data set: one shot, and the mean of many

Paths in the lists are relative to them, so that a result tells no one where the images lie.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.results_file import write_result

SIGMAS = (15, 25, 50)
CROP, POLYU_SIDE, POLYU_CROP = 128, 512, 256


def cbsd68(data: Path, folder: Path, sigma: int) -> list[dict[str, Any]]:
    """The crops of CBSD68 with noise of `sigma`."""
    return [
        {
            "name": crop["name"],
            "noisy": relative(data / "cbsd68" / f"noise{sigma}" / crop["image"], folder),
            "clean": relative(data / "cbsd68" / "clean" / crop["image"], folder),
            "sigma": sigma,
            "top": crop["top"],
            "left": crop["left"],
            "size": CROP,
        }
        for crop in json.loads((data / "crops.json").read_text())["crops"]
    ]


def polyu(data: Path, folder: Path, size: int) -> list[dict[str, Any]]:
    """The middle of each PolyU image, `size` pixels a side; the scene is the last but one word of a file's name."""
    return [
        {
            "name": path.stem.split("_")[-2],
            "noisy": relative(path, folder),
            "clean": relative(data / "polyu" / "mean" / path.name, folder),
            "top": (POLYU_SIDE - size) // 2,
            "left": (POLYU_SIDE - size) // 2,
            "size": size,
        }
        for path in sorted((data / "polyu" / "noisy").iterdir())
    ]


def relative(path: Path, folder: Path) -> str:
    """`path` as a list in `folder` names it."""
    return os.path.relpath(path.resolve(), folder.resolve())


def main() -> None:
    """Write all lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder of the lists")
    args = parser.parse_args()
    lists = {f"cbsd68-crops-sigma{sigma}.json": cbsd68(args.data, args.output, sigma) for sigma in SIGMAS}
    lists["polyu-crops.json"] = polyu(args.data, args.output, POLYU_CROP)
    lists["polyu-small-crops.json"] = polyu(args.data, args.output, CROP)
    for name, entries in lists.items():
        write_result(args.output / name, entries)
        print(f"{args.output / name}: {len(entries)} pairs")


if __name__ == "__main__":
    main()
