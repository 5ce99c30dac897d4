"""Measure the loss of PSNR by half precision, and its estimate without a clean image.

    python -m benchmarks.precision -o benchmarks/results/precision.json

The images are 128x128 crops of scikit-image's photographs with white Gaussian noise. Each is fitted with the recipe
`fast`, and once for 2 steps from scratch. `self2self export --precision` compares the ensembles in the same way: with
the clean image it measures the change of the PSNR, and without it an upper bound.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pairs import FloatArray, middle_of_sample
from benchmarks.product import network_with, start_weights_of
from benchmarks.results_file import provenance, result_parser, write_result
from self2self.export.precision import ACCEPTED_DECIBELS, compare, middle
from self2self.export.to_onnx import to_onnx
from self2self.model.contract import Contract
from self2self.model.network import Self2SelfNet
from self2self.train.fit import fit, new_state
from self2self.train.recipes import Recipe, recipe_for

PHOTOGRAPHS = (("astronaut", 25), ("coffee", 10), ("camera", 25), ("rocket", 50))
SIZE = (128, 128)
LOADED_SIDE = 256
SEED = 0


def noisy_and_clean(name: str, sigma: float) -> tuple[FloatArray, FloatArray]:
    """Return the middle of a photograph, (C, 128, 128), with noise that is rounded to 8 bits, and without noise."""
    clean = middle(middle_of_sample(name, LOADED_SIDE), SIZE)
    noisy = clean + np.random.default_rng(SEED).standard_normal(clean.shape) * sigma / 255
    return (np.round(np.clip(noisy, 0, 1) * 255) / 255).astype(np.float32), clean


def fitted(noisy: FloatArray, recipe: Recipe) -> tuple[Self2SelfNet, Contract]:
    """Fit `noisy` as `self2self fit` does; return the network and its contract."""
    channels = noisy.shape[0]
    start = start_weights_of(recipe, channels)
    state = fit(noisy, recipe, new_state(recipe, channels, SEED, torch.device("cpu"), start), seed=SEED)
    network = network_with(state.weights(), recipe, channels)
    return network, Contract(channels, recipe.pass_masks(channels), recipe=recipe.name, steps=state.step)


def judgements(network: Self2SelfNet, contract: Contract, noisy: FloatArray, clean: FloatArray) -> list[dict[str, Any]]:
    """Return, for each half precision, the true loss and the estimates without the clean image."""
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
    parser = result_parser(__doc__)
    parser.add_argument("--photographs", type=int, default=len(PHOTOGRAPHS), help="use the first N alone")
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
    result = {**provenance("precision"), "accepted_decibels": ACCEPTED_DECIBELS, "rows": rows}
    write_result(args.output, result)


if __name__ == "__main__":
    main()
