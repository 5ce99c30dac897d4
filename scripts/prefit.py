"""Makes the start weights of `--init natural` from a folder of clean photographs.

The network learns to predict the clean photograph from a noisy one, with the same Bernoulli masks
as in a fit, over wide ranges of noise kinds, noise levels and drop rates. A fit that starts from
these weights needs a hundred steps instead of thousands.

    python scripts/prefit.py FOLDER... -o self2self/weights/pretrained-rgb.safetensors

It saves its whole state beside the output every two minutes, and continues from there when it is
started again. The learning rate is constant after a warm-up and falls to zero over the last
`--decay` steps. Until the fall begins, a run can be prolonged by a larger `--steps`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from clean_crops import (
    MICROGRAPH_CROPS,
    PHOTOGRAPH_CROPS,
    CropFunction,
    Photograph,
    load_photographs,
    sample_clean,
    soft,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from self2self.model.contract import mask_specs
from self2self.model.masks import MaskMaker, Stream, generator
from self2self.model.network import Self2SelfNet, initialise
from self2self.train.adam import Adam
from self2self.train.fused_forward import FusedTrainingForward
from self2self.train.muon import Muon, moment_names
from self2self.train.synthetic_noise import NOISES, add_noise

ENCODER_WIDTH = 48
DECODER_WIDTHS = (96, 96, 96, 64, 32)
SAVE_SECONDS = 120.0
GENERAL_NOISE = {
    "gaussian": 0.36,
    "poisson": 0.12,
    "multiplicative": 0.03,
    "impulse": 0.03,
    "mixture": 0.06,
    "correlated": 0.05,
    "camera": 0.35,
}
"""Share of the crops with each kind of noise."""
MICROGRAPH_NOISE = {
    "gaussian": 0.22,
    "poisson": 0.25,
    "multiplicative": 0.03,
    "impulse": 0.03,
    "mixture": 0.15,
    "correlated": 0.12,
    "camera": 0.2,
}
INDEPENDENT_NOISE = {
    "gaussian": 0.6,
    "poisson": 0.1,
    "multiplicative": 0.05,
    "impulse": 0.05,
    "mixture": 0.1,
    "correlated": 0.03,
    "camera": 0.07,
}
MIXES = {
    "all": (GENERAL_NOISE, PHOTOGRAPH_CROPS),
    "independent": (INDEPENDENT_NOISE, PHOTOGRAPH_CROPS),
    "camera": ({"camera": 0.8, "correlated": 0.1, "gaussian": 0.1}, PHOTOGRAPH_CROPS),
    "micrographs": (MICROGRAPH_NOISE, MICROGRAPH_CROPS),
}
"""Shares of noise and of crops for each value of `--noise`."""
SOFT_SHARE = 0.15
SOFT_SHARES = {"camera": 0.7, "correlated": 0.7}
"""Share of soft crops by kind of noise; `SOFT_SHARE` for the others. Correlated noise looks like the grain of
photographs, so most clean crops for it must have no grain."""
LARGEST_SIGMA = 70.0
LARGEST_CAMERA_SIGMA = 30.0
"""Largest standard deviations of the noise, in 8-bit grey levels."""
CUT_OFF_SHARE = 0.1
"""Share of the crops with values outside [0, 1]."""
LARGEST_CUT_OFF = 0.3
"""Largest part of the original range that becomes values outside [0, 1], at each end."""


def with_noise(
    clean: np.ndarray, kind: str, rng: np.random.Generator, power: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """`clean` and the same with noise of `kind`, both float32; the noise is more often weak than strong.

    In a share of the crops both have values outside [0, 1], as in an image whose outliers did not set the range.
    """
    largest = LARGEST_CAMERA_SIGMA if kind == "camera" else LARGEST_SIGMA
    sigma = draw_low_biased(0, largest, rng, power)
    if rng.random() >= CUT_OFF_SHARE:
        return clean, add_noise(clean, kind, sigma, rng)
    low, high = rng.uniform(0, LARGEST_CUT_OFF), rng.uniform(1 - LARGEST_CUT_OFF, 1)
    noisy = NOISES[kind](clean, sigma, rng)
    return tuple(((pixels - low) / (high - low)).astype(np.float32) for pixels in (clean, noisy))


def draw_low_biased(low: float, high: float, rng: np.random.Generator, power: float = 2.0) -> float:
    """A random number from `low` to `high`, more often low: half of them lie in the lowest 2^-power of the range."""
    return low + (high - low) * rng.random() ** power


def root_mean_square(prediction: Tensor, clean: Tensor) -> Tensor:
    """The mean over the batch of each sample's RMSE, in which strong noise counts less than in the mean square."""
    return ((prediction - clean).square().mean((1, 2, 3)) + 1e-6).sqrt().mean()


def learning_rate(step: int, steps: int, peak: float, warm_up: int, decay: int) -> float:
    """Warm-up, constant, linear decay to zero over the last `decay` steps."""
    return peak * min(1.0, (step + 1) / warm_up) * min(1.0, max(0.0, (steps - step) / decay))


class SampleSource(NamedTuple):
    """Draws pairs of a clean and a noisy crop.

    Attributes:
        photographs: photographs, whole and at half the size, for most crops.
        reduced: photographs at half and a third of the size, for soft crops.
        noise_shares: share of each kind of noise.
        crop_shares: share of each kind of crop among those that are not soft.
        size: side of a crop, in pixels.
        sigma_power: see `draw_low_biased`.
    """

    photographs: list[Photograph]
    reduced: list[Photograph]
    noise_shares: Mapping[str, float]
    crop_shares: Mapping[CropFunction, float]
    size: int
    sigma_power: float

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A clean crop and the same with noise, both float32 (C, size, size)."""
        kind = str(rng.choice(list(self.noise_shares), p=list(self.noise_shares.values())))
        is_soft = rng.random() < SOFT_SHARES.get(kind, SOFT_SHARE)
        clean = (
            soft(self.reduced, self.size, rng)
            if is_soft
            else sample_clean(self.photographs, self.size, rng, self.crop_shares)
        )
        return with_noise(clean, kind, rng, self.sigma_power)


def parse_arguments() -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights to start from; for grey also those for colour")
    parser.add_argument("--noise", choices=MIXES, default="all")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--decay", type=int, default=8_000)
    parser.add_argument("--warm-up", type=int, default=400)
    parser.add_argument("--rate", type=float, default=1e-3, help="of Adam")
    parser.add_argument("--matrix-rate", type=float, help="of Muon for the convolutions' weights; without it, Adam's")
    parser.add_argument(
        "--drop-rates", type=float, nargs=2, default=(0.15, 0.65), metavar=("LOW", "HIGH"), help="of the input"
    )
    parser.add_argument("--sigma-power", type=float, default=2.0, help="the higher, the more often noise is weak")
    parser.add_argument("--decoder-drop-rate", type=float, default=0.03)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true", help="of activations and products: half the time with AMX")
    return parser.parse_args()


def new_network(args: argparse.Namespace) -> Self2SelfNet:
    """The network before the first step, with random weights or those of `--start`."""
    network = Self2SelfNet(args.channels, ENCODER_WIDTH, DECODER_WIDTHS)
    initialise(network, "kaiming", torch.Generator().manual_seed(args.seed))
    if args.start:
        weights = {name: tensor.float() for name, tensor in load_file(args.start).items()}
        same_channels = len(weights["head.bias"]) == args.channels
        network.load_state_dict(weights if same_channels else grey_from_colour(weights))
    return network.to(memory_format=torch.channels_last)


def new_optimiser(args: argparse.Namespace, network: Self2SelfNet) -> Adam:
    """Muon with `--matrix-rate`, otherwise Adam."""
    betas = (0.9, 0.99)
    if args.matrix_rate is None:
        return Adam(network.parameters(), args.rate, betas)
    return Muon(network, args.rate, args.matrix_rate, betas)


def take_step(
    args: argparse.Namespace,
    step: int,
    source: SampleSource,
    network: Self2SelfNet,
    forward: FusedTrainingForward,
    optimiser: Adam,
) -> Tensor:
    """Draw a batch, its drop rate and its masks, and update the network; returns the loss."""
    rng = generator(args.seed, step, Stream.CROP)
    clean, noisy = map(np.stack, zip(*(source.sample(rng) for _ in range(args.batch)), strict=True))
    drop_rate = draw_low_biased(*args.drop_rates, rng)
    specs = mask_specs(args.channels, ENCODER_WIDTH, DECODER_WIDTHS, drop_rate, args.decoder_drop_rate)
    size = {"H": args.size, "W": args.size}
    maker = MaskMaker(specs, size, args.seed, Stream.FIT, channels_last=True)
    masks = maker.make(step * args.batch, args.batch)
    network.decoder_keep = specs[1].keep_probability
    for group in optimiser.param_groups:
        scale = group.get("rate_scale", 1.0)
        group["lr"] = scale * learning_rate(step, args.steps, args.rate, args.warm_up, args.decay)
    prediction = forward(torch.from_numpy(noisy), *map(torch.from_numpy, masks.values()))
    loss = root_mean_square(prediction, torch.from_numpy(clean))
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 0.3)
    optimiser.step()
    return loss


@torch.no_grad()
def update_average(average: dict[str, Tensor], network: Self2SelfNet, step: int) -> None:
    """Update the exponential average of the weights after 0-based `step`, with a warm-up."""
    decay = min(0.999, (step + 1) / (step + 10))
    for name, tensor in network.state_dict().items():
        average[name].lerp_(tensor, 1 - decay)


def main() -> None:
    """Pre-fit until `--steps`, or until interrupted."""
    args = parse_arguments()
    photographs = load_photographs(args.folders, args.channels)
    reduced = load_photographs(args.folders, args.channels, parts=(2, 3))
    source = SampleSource(photographs, reduced, *MIXES[args.noise], args.size, args.sigma_power)
    network = new_network(args)
    forward = FusedTrainingForward(network, torch.bfloat16 if args.bfloat16 else torch.float32)
    average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    optimiser = new_optimiser(args, network)
    state_path = args.output.with_suffix(".state.safetensors")
    first = load_state(state_path, network, optimiser, average) if state_path.exists() else 0
    print(f"{len(photographs)} photographs; step {first} of {args.steps}", flush=True)

    saved, losses = time.monotonic(), []
    for step in range(first, args.steps):
        loss = take_step(args, step, source, network, forward, optimiser)
        update_average(average, network, step)
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}  rmse {np.mean(losses) * 255:.2f}", flush=True)
            losses = []
        if time.monotonic() - saved > SAVE_SECONDS or step + 1 == args.steps:
            save_state(state_path, step + 1, network, optimiser, average)
            save_weights(args.output, average)
            saved = time.monotonic()


def grey_from_colour(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the grey network that computes what the colour network does on three equal channels and masks."""
    grey = dict(weights)
    mask, image = weights["stem.conv.weight"].chunk(2, dim=1)
    grey["stem.conv.weight"] = torch.cat([mask.sum(1, keepdim=True), image.sum(1, keepdim=True)], dim=1)
    for name in ("head.weight", "head.bias"):
        grey[name] = weights[name].mean(0, keepdim=True)
    return grey


def save_weights(path: Path, average: dict[str, Tensor]) -> None:
    """Write the averaged weights as float16, which halves the file and changes no prediction visibly."""
    temporary = path.with_suffix(".part")
    save_file({name: tensor.to(torch.float16).contiguous() for name, tensor in average.items()}, temporary)
    temporary.replace(path)


def save_state(path: Path, step: int, network: Self2SelfNet, optimiser: Adam, average: dict[str, Tensor]) -> None:
    """Write everything that continuing needs."""
    tensors = {"step": torch.tensor(step)}
    for (name, parameter), key in zip(network.named_parameters(), average, strict=True):
        moments = optimiser.state[parameter]
        tensors |= {
            f"network.{name}": parameter.detach(),
            f"average.{name}": average[key],
            **{f"{moment}.{name}": moments[moment] for moment in moment_names(optimiser, name, parameter)},
        }
    temporary = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.replace(path)


def load_state(path: Path, network: Self2SelfNet, optimiser: Adam, average: dict[str, Tensor]) -> int:
    """Restore what `save_state` wrote; returns the next step."""
    tensors = load_file(path)
    step = int(tensors["step"])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[f"network.{name}"])
            average[name].copy_(tensors[f"average.{name}"])
            optimiser.state[parameter] = {"step": torch.tensor(float(step))} | {
                moment: tensors[f"{moment}.{name}"] for moment in moment_names(optimiser, name, parameter)
            }
    return step


if __name__ == "__main__":
    main()
