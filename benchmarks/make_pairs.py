"""Write lists of image pairs for `benchmarks.fit_quality`, from a folder of evaluation images.

    python -m benchmarks.make_pairs DATA -o .

writes these lists into the folder of `-o`: ``cbsd68-crops-sigma15.json``, ``-sigma25``, ``-sigma50``, the same for the
green channel alone (``cbsd68-green-crops-sigma15.json``, ...), ``polyu-crops.json``, ``polyu-small-crops.json`` with
crops of a quarter of the area, and ``fmd-crops.json``. DATA contains

    crops.json                   {"crops": [{"name", "image", "top", "left"}, ...]}: squares of 128 pixels
    cbsd68/clean                 photographs of CBSD68
    cbsd68/noise15, 25 and 50    the same with Gaussian noise, clipped and rounded to 8 bits
    polyu/noisy, polyu/mean      crops of the PolyU data set: one shot, and the mean of many
    fmd/raw, fmd/gt              optional, for fmd-crops.json: frames of the fluorescence microscopy data set of Zhang
                                 et al. (CVPR 2019), and the means of fifty frames, as NAME_1.png, NAME_2.png, ... (the
                                 folder data/FMD_testset of github.com/Danielement321/FM2S)

Paths in a list are relative to the list, so that results contain no folders of the machine.
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
    """Return entries for the crops of CBSD68 with noise of `sigma`; each has the fields `also`, too."""
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
    """Return entries for the middle of each PolyU image, `size` x `size`.

    The scene is the last but one word of a file's name.
    """
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
    """Return entries for the middle of the first frame of each FMD scene, `size` x `size`."""
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
    """Return the fields of an entry that select the middle `size` x `size` of an image with real noise."""
    start = (REAL_SIDE - size) // 2
    return {"top": start, "left": start, "size": size}


def relative(path: Path, folder: Path) -> str:
    """Return `path` relative to the `folder` of a list."""
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
