"""What half precision costs, and what is said of it without a clean image.

    python -m benchmarks.precision -o benchmarks/results/precision.json

128x128 of scikit-image's photographs with white Gaussian noise, each fitted with the recipe `fast`,
and once for 2 steps from scratch. The ensembles and both judgements are those of `self2self export
--precision`: the true change of the PSNR needs the clean image, and the bound does not see it.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.diagnosis import load
from benchmarks.pairs import FloatArray
from benchmarks.results_file import write_result
from self2self.bench.environment import environment, shown_command
from self2self.export.precision import ACCEPTED_DECIBELS, compare, middle
from self2self.export.to_onnx import to_onnx
from self2self.model.contract import Contract
from self2self.model.network import Self2SelfNet
from self2self.train.fit import fit, new_state
from self2self.train.recipes import Recipe, recipe_for
from self2self.train.start_weights import start_weights_for_recipe

PHOTOGRAPHS = (("astronaut", 25), ("coffee", 10), ("camera", 25), ("rocket", 50))
SIZE = (128, 128)
SEED = 0


def noisy_and_clean(name: str, sigma: float) -> tuple[FloatArray, FloatArray]:
    """The middle of a photograph, (C, 128, 128), as 8-bit files would hold it."""
    clean = middle(load(name), SIZE)
    noisy = clean + np.random.default_rng(SEED).standard_normal(clean.shape) * sigma / 255
    return (np.round(np.clip(noisy, 0, 1) * 255) / 255).astype(np.float32), clean


def fitted(noisy: FloatArray, recipe: Recipe) -> tuple[Self2SelfNet, Contract]:
    """The network that `self2self fit` would save, and what it says of itself."""
    channels = noisy.shape[0]
    start = start_weights_for_recipe(recipe, channels)
    state = fit(noisy, recipe, new_state(recipe, channels, SEED, torch.device("cpu"), start), seed=SEED)
    masks = recipe.pass_masks(channels)
    network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, masks[-1].keep_probability)
    network.load_state_dict(state.weights())
    return network.eval(), Contract(channels, masks, recipe=recipe.name, steps=state.step)


def judgements(network: Self2SelfNet, contract: Contract, noisy: FloatArray, clean: FloatArray) -> list[dict[str, Any]]:
    """For each half precision: the truth, and the bound without it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp16", "bf16"):
            lower = replace(contract, precision=precision)
            path = Path(folder) / f"{precision}.onnx"
            to_onnx(network, lower, path)
            truth = compare(network, lower, path, noisy, reference=clean)
            guess = compare(network, lower, path, noisy)
            rows.append(
                {
                    **asdict(guess),
                    "true_decibels": truth.estimated_decibels,
                    "bound_holds": guess.decibels >= truth.decibels,
                    "accepted": guess.decibels <= ACCEPTED_DECIBELS,
                    "accepted_with_reference": truth.decibels <= ACCEPTED_DECIBELS,
                }
            )
    return rows


def main() -> None:
    """Fit, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=len(PHOTOGRAPHS), help="how many, from the first on")
    args = parser.parse_args()
    recipes = {"fast": recipe_for("fast"), "2 steps": replace(recipe_for("fast", "scratch"), steps=2)}
    rows = []
    for name, sigma in PHOTOGRAPHS[: args.photographs]:
        noisy, clean = noisy_and_clean(name, sigma)
        for label, recipe in recipes.items():
            for found in judgements(*fitted(noisy, recipe), noisy, clean):
                rows.append({"image": name, "sigma": sigma, "fit": label, **found})
                print(
                    f"{name:10} {sigma:2} {label:8} {found['precision']} truth {found['true_decibels']:+.4f} dB, "
                    f"estimate {found['estimated_decibels']:+.4f}  bound {found['decibels']:.4f}  "
                    f"{found['rms_difference']:.3f} grey levels",
                    flush=True,
                )
    result = {
        "command": shown_command("python -m benchmarks.precision"),
        **environment(),
        "accepted_decibels": ACCEPTED_DECIBELS,
        "rows": rows,
    }
    write_result(args.output, result)


if __name__ == "__main__":
    main()
