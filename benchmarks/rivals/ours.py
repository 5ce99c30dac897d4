"""This project: the job behind `self2self denoise` on a file, as a user runs it.

The noisy image is written as it would be stored: PNG where it has 8 bits, else a TIFF of 32-bit floats. The job reads
it, chooses its range, fits, exports, and runs the ensemble. Its result is taken before it is rounded for the file.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image as PillowImage

from benchmarks.pairs import FloatArray, Pair
from benchmarks.rivals.rival import Rival
from self2self.image_io.value_range import WHITE_VALUES

RECIPES = {"self2self": "fast", "self2self-paper": "paper"}
"""Name of a rival and its recipe."""


def write_noisy(pair: Pair, folder: Path) -> Path:
    """Write the noisy image of `pair` as a file of its type into `folder`."""
    pixels = np.moveaxis(pair.noisy, 0, 2)
    if pair.dtype != "uint8":
        path = folder / "noisy.tif"
        channels = pixels.shape[2]
        values = np.ascontiguousarray(pixels if channels > 1 else pixels[..., 0], np.float32)
        tifffile.imwrite(path, values, photometric="rgb" if channels == 3 else "minisblack")
        return path
    path = folder / "noisy.png"
    stored = np.rint(pixels * 255).astype(np.uint8)
    PillowImage.fromarray(stored if stored.shape[2] > 1 else stored[..., 0]).save(path)
    return path


def denoise(recipe: str, pair: Pair, sigma: float) -> FloatArray:
    """What `self2self denoise --recipe RECIPE` makes of the noisy image of `pair`, with seed 0.

    Returns:
        (C, H, W), 0 for black and 1 for white, neither clamped nor rounded.
    """
    from self2self.jobs import DenoiseResult, FitOptions, OutputOptions, denoise_job

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_noisy(pair, folder)
        fitting = FitOptions(recipe=recipe, run=folder / "run")
        done = denoise_job(path, fitting, outputs=OutputOptions(output=folder / f"result{path.suffix}"))
    assert isinstance(done, DenoiseResult)  # noqa: S101 - an image of one page
    black, white = (value / WHITE_VALUES[pair.dtype] for value in done.range)
    return np.asarray(done.ensemble.image.astype(np.float64) * (white - black) + black, np.float32)


def inputs(recipe: str, pair: Pair) -> dict[str, Any]:
    """The recipe with all its values, and the hash of the start weights."""
    from benchmarks.methods import recipe_for_image, recipe_inputs, seen_by

    seen = seen_by(recipe, pair)
    found, noise = recipe_for_image(recipe, seen.noisy)
    return recipe_inputs(found, seen, noise)


def rivals() -> list[Rival]:
    """The recipes `fast` and `paper`."""
    knows = {"fast": "nothing of the noise; starts from weights of photographs with many kinds of noise"}
    return [
        Rival(
            name,
            knows.get(recipe, "nothing"),
            False,
            partial(denoise, recipe),
            inputs=partial(inputs, recipe),
            slow=recipe != "fast",
        )
        for name, recipe in RECIPES.items()
    ]
