"""Measure the loss of PSNR by the rounding of the engines `torch-amx` and `torch-int8`.

    python -m benchmarks.rounding -o benchmarks/results/rounding.json

Photographs and fits are those of `benchmarks.precision`. The same balanced passes are averaged in float32, in bfloat16
and in 8-bit integers. In bfloat16 and in integers, the weights are either rounded once to the nearest value, or as the
engine does: several sets of weights, each rounded differently, take turns over the passes. The integers need a CPU with
VNNI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.pairs import FloatArray, rms_grey_levels
from benchmarks.precision import PHOTOGRAPHS, fitted, noisy_and_clean
from benchmarks.product import adapted
from benchmarks.results_file import provenance, result_parser, write_result
from self2self.imaging.metrics import psnr
from self2self.machine.system import multiplies_bytes
from self2self.model.contract import Contract, MaskSpec
from self2self.model.masks import Draws, MaskMaker
from self2self.model.network import Self2SelfNet
from self2self.runtime.engines.torch_cpu.bf16 import TorchAmxEngine
from self2self.runtime.engines.torch_cpu.bf16_network import Bf16Network
from self2self.runtime.engines.torch_cpu.int8 import TorchInt8Engine
from self2self.runtime.engines.torch_cpu.int8_network import Int8Network
from self2self.runtime.engines.torch_cpu.passes import LowPrecisionNetwork
from self2self.runtime.engines.windows import in_turn
from self2self.train.recipes import recipe_for

PASSES = 50


def networks_of(
    network: Self2SelfNet, image: torch.Tensor, specs: Sequence[MaskSpec]
) -> dict[str, LowPrecisionNetwork]:
    """Return the networks that run the passes, by the name of their engine or of their rounding."""
    made: dict[str, LowPrecisionNetwork] = {
        "bfloat16, once": Bf16Network(network, image, 1, in_turn, sets=1),
        TorchAmxEngine.name: Bf16Network(network, image, 1, in_turn),
    }
    if multiplies_bytes():
        made["int8, once"] = Int8Network(network, image, specs, 1, in_turn, sets=1)
        made[TorchInt8Engine.name] = Int8Network(network, image, specs, 1, in_turn)
    return made


@torch.inference_mode()
def differences(
    network: Self2SelfNet, contract: Contract, noisy: FloatArray, clean: FloatArray
) -> list[dict[str, Any]]:
    """Return, for each rounding, the difference from float32 of the mean of `PASSES` passes and of single passes."""
    image = torch.from_numpy(noisy)[None]
    axes = {"H": noisy.shape[1], "W": noisy.shape[2]}
    maker = MaskMaker(contract.masks, axes, contract.seed, draws=Draws.BALANCED, channels_last=True)
    networks = networks_of(network, image, contract.masks)
    exact = np.zeros(noisy.shape)
    means = {way: np.zeros(noisy.shape) for way in networks}
    of_a_pass = dict.fromkeys(networks, 0.0)
    for index in range(PASSES):
        masks = [torch.from_numpy(mask) for mask in maker.make(index, 1).values()]
        plain = network(image, *masks)[0].double().numpy()
        exact += plain / PASSES
        for way, rounded_network in networks.items():
            prediction = rounded_network(masks, index, shared=False)[0].double().numpy()
            means[way] += prediction / PASSES
            of_a_pass[way] += rms_grey_levels(prediction - plain) / PASSES
    level = _decibels(exact, clean)
    return [
        {
            "way": way,
            "psnr_float32": level,
            "psnr_change": _decibels(mean, clean) - level,
            "rms_of_the_mean": rms_grey_levels(mean - exact),
            "rms_of_a_pass": of_a_pass[way],
        }
        for way, mean in means.items()
    ]


def _decibels(image: np.ndarray, clean: FloatArray) -> float:
    return psnr(np.clip(image, 0, 1).astype(np.float32), clean)


def main() -> None:
    """Fit, compare, print and write."""
    args = result_parser(__doc__).parse_args()
    rows = []
    for name, sigma in PHOTOGRAPHS:
        noisy, clean = noisy_and_clean(name, sigma)
        for found in differences(*fitted(noisy, adapted(recipe_for("fast"), noisy)[0]), noisy, clean):
            rows.append({"image": name, "sigma": sigma, **found})
            print(
                f"{name:10} {sigma:2} {found['way']:14} {found['psnr_change']:+.4f} dB, "
                f"mean {found['rms_of_the_mean']:.3f}, pass {found['rms_of_a_pass']:.3f} grey levels",
                flush=True,
            )
    write_result(args.output, {**provenance("rounding"), "passes": PASSES, "rows": rows})


if __name__ == "__main__":
    main()
