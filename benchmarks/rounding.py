"""What the rounding of the engines `torch-amx` and `torch-int8` costs an ensemble.

    python -m benchmarks.rounding -o benchmarks/results/rounding.json

The photographs and fits of `benchmarks.precision`. Means of the same balanced passes: in float32; in bfloat16 with
weights that were rounded to the nearest once; in bfloat16 as `torch-amx` does it, where passes take turns in weights
that are rounded up here and down there; and in integers of 8 bits, with weights rounded once and as `torch-int8` does
it. The integers need a CPU with VNNI.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pairs import FloatArray
from benchmarks.precision import PHOTOGRAPHS, fitted, noisy_and_clean
from benchmarks.results_file import write_result
from self2self.bench.environment import environment, shown_command
from self2self.imaging.metrics import psnr
from self2self.imaging.noise import measure_noise
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
    """What runs the passes, by the engine that does so, or what is rounded once."""
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
    """For each way to round, how far the mean of `PASSES` passes, and a pass, is from float32."""
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
        for way, rounds in networks.items():
            prediction = rounds(masks, index, shared=False)[0].double().numpy()
            means[way] += prediction / PASSES
            of_a_pass[way] += _grey_levels(prediction - plain) / PASSES
    level = _decibels(exact, clean)
    return [
        {
            "way": way,
            "psnr_float32": level,
            "psnr_change": _decibels(mean, clean) - level,
            "rms_of_the_mean": _grey_levels(mean - exact),
            "rms_of_a_pass": of_a_pass[way],
        }
        for way, mean in means.items()
    ]


def _decibels(image: np.ndarray, clean: FloatArray) -> float:
    return psnr(np.clip(image, 0, 1).astype(np.float32), clean)


def _grey_levels(difference: np.ndarray) -> float:
    return 255 * float(np.sqrt(np.mean(np.square(difference))))


def main() -> None:
    """Fit, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for name, sigma in PHOTOGRAPHS:
        noisy, clean = noisy_and_clean(name, sigma)
        for found in differences(*fitted(noisy, recipe_for("fast").for_noise(measure_noise(noisy))), noisy, clean):
            rows.append({"image": name, "sigma": sigma, **found})
            print(
                f"{name:10} {sigma:2} {found['way']:14} {found['psnr_change']:+.4f} dB, "
                f"mean {found['rms_of_the_mean']:.3f}, pass {found['rms_of_a_pass']:.3f} grey levels",
                flush=True,
            )
    command = shown_command("python -m benchmarks.rounding")
    write_result(args.output, {"command": command, **environment(), "passes": PASSES, "rows": rows})


if __name__ == "__main__":
    main()
