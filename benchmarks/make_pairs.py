"""Lists of image pairs for `benchmarks.fit_quality`, from a folder of evaluation images.

    python -m benchmarks.make_pairs DATA -o .

writes ``cbsd68-crops-sigma15.json``, ``-sigma25``, ``-sigma50``, the same of one channel, the green one
(``cbsd68-green-crops-sigma15.json``, ...), ``polyu-crops.json`` and, a quarter of their area,
``polyu-small-crops.json``, and ``fmd-crops.json`` into the folder of `-o`. DATA holds

    crops.json                   {"crops": [{"name", "image", "top", "left"}, ...]}: squares of 128 pixels
    cbsd68/clean                 photographs of CBSD68
    cbsd68/noise15, 25 and 50    the same with Gaussian noise, clipped and rounded to 8 bits
    polyu/noisy, polyu/mean      crops of the PolyU data set: one shot, and the mean of many
    fmd/raw, fmd/gt              if it is there, for fmd-crops.json: frames of the fluorescence microscopy data set of
                                 Zhang et al. (CVPR 2019), and the means of fifty, as NAME_1.png, NAME_2.png, ... (the
                                 folder data/FMD_testset of github.com/Danielement321/FM2S)

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
CROP, REAL_SIDE, REAL_CROP = 128, 512, 256
GREEN = 1


def cbsd68(data: Path, folder: Path, sigma: int, **also: Any) -> list[dict[str, Any]]:
    """The crops of CBSD68 with noise of `sigma`; `also` is what else an entry says."""
    return [
        {
            "name": crop["name"],
            "noisy": relative(data / "cbsd68" / f"noise{sigma}" / crop["image"], folder),
            "clean": relative(data / "cbsd68" / "clean" / crop["image"], folder),
            "sigma": sigma,
            "top": crop["top"],
            "left": crop["left"],
            "size": CROP,
            **also,
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
            **middle(size),
        }
        for path in sorted((data / "polyu" / "noisy").iterdir())
    ]


def fmd(data: Path, folder: Path, size: int) -> list[dict[str, Any]]:
    """The middle of the first frame of each scene of FMD, `size` pixels a side."""
    return [
        {
            "name": path.stem.removesuffix("_1").replace("_", " "),
            "noisy": relative(path, folder),
            "clean": relative(data / "fmd" / "gt" / path.name, folder),
            "photons": True,
            **middle(size),
        }
        for path in sorted((data / "fmd" / "raw").glob("*_1.png"))
    ]


def middle(size: int) -> dict[str, int]:
    """The middle `size` pixels of an image of real noise."""
    start = (REAL_SIDE - size) // 2
    return {"top": start, "left": start, "size": size}


def relative(path: Path, folder: Path) -> str:
    """`path` as a list in `folder` names it."""
    return os.path.relpath(path.resolve(), folder.resolve())


def main() -> None:
    """Write all lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder of the lists")
    args = parser.parse_args()
    lists = {}
    for sigma in SIGMAS:
        lists[f"cbsd68-crops-sigma{sigma}.json"] = cbsd68(args.data, args.output, sigma)
        lists[f"cbsd68-green-crops-sigma{sigma}.json"] = cbsd68(args.data, args.output, sigma, channel=GREEN)
    lists["polyu-crops.json"] = polyu(args.data, args.output, REAL_CROP)
    lists["polyu-small-crops.json"] = polyu(args.data, args.output, CROP)
    if (args.data / "fmd").is_dir():
        lists["fmd-crops.json"] = fmd(args.data, args.output, REAL_CROP)
    for name, entries in lists.items():
        write_result(args.output / name, entries)
        print(f"{args.output / name}: {len(entries)} pairs")


if __name__ == "__main__":
    main()
