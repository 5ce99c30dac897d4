"""Makes the start weights of `--init natural` from a folder of clean photographs.

The network learns, with the same Bernoulli masks as in a fit, to predict the clean photograph
from a noisy one, over wide ranges of noise kinds, noise levels and drop rates. A fit then starts
from a network that already knows what images look like, and needs a hundred steps instead of
thousands.

    python scripts/prefit.py FOLDER... -o self2self/weights/pretrained-rgb.safetensors

It saves its whole state every two minutes beside the output and continues from there when it is
started again. The learning rate is constant after a warm-up and falls to zero over the last part
of `--steps`, so that a run can be prolonged until then by giving a larger number.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from clean_crops import MICROGRAPHS, WAYS, load_photographs, sample_clean, soft
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
KINDS = {
    "gaussian": 0.36,
    "poisson": 0.12,
    "multiplicative": 0.03,
    "impulse": 0.03,
    "mixture": 0.06,
    "correlated": 0.05,
    "camera": 0.35,
}
"""Kinds of noise, and how large a share of the crops has each."""
PHOTONS = {
    "gaussian": 0.22,
    "poisson": 0.25,
    "multiplicative": 0.03,
    "impulse": 0.03,
    "mixture": 0.15,
    "correlated": 0.12,
    "camera": 0.2,
}
INDEPENDENT = {
    "gaussian": 0.6,
    "poisson": 0.1,
    "multiplicative": 0.05,
    "impulse": 0.05,
    "mixture": 0.1,
    "correlated": 0.03,
    "camera": 0.07,
}
MIXES = {
    "all": (KINDS, WAYS),
    "independent": (INDEPENDENT, WAYS),
    "camera": ({"camera": 0.8, "correlated": 0.1, "gaussian": 0.1}, WAYS),
    "micrographs": (PHOTONS, MICROGRAPHS),
}
"""By the name for `--noise`: kinds of noise and ways of crops."""
SOFT_SHARE = 0.15
SOFT_SHARES = {"camera": 0.7, "correlated": 0.7}
"""Share of the crops that are soft: where noise looks like grain, what is clean must have none."""
LARGEST_SIGMA = 70.0
LARGEST_CAMERA_SIGMA = 30.0
BEYOND_SHARE = 0.1
"""Share of the crops that have values beyond the nominal range."""
MOST_BEYOND = 0.3
"""How much of that range is cut off at each end, at most."""


def with_noise(
    clean: np.ndarray, kind: str, rng: np.random.Generator, power: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """`clean`, and it with noise of `kind` and of a level that is more often weak than strong, as in the world.

    A part of both has values beyond [0, 1], as an image has whose range was chosen by its bulk.
    """
    largest = LARGEST_CAMERA_SIGMA if kind == "camera" else LARGEST_SIGMA
    sigma = more_often_low(0, largest, rng, power)
    if rng.random() >= BEYOND_SHARE:
        return clean, add_noise(clean, kind, sigma, rng)
    low, high = rng.uniform(0, MOST_BEYOND), rng.uniform(1 - MOST_BEYOND, 1)
    noisy = NOISES[kind](clean, sigma, rng)
    return tuple(((pixels - low) / (high - low)).astype(np.float32) for pixels in (clean, noisy))


def more_often_low(low: float, high: float, rng: np.random.Generator, power: float = 2.0) -> float:
    """A number of which half are in the first quarter of the range, with a `power` of 3 in the first eighth."""
    return low + (high - low) * rng.random() ** power


def root_mean_square(prediction: Tensor, clean: Tensor) -> Tensor:
    """Mean over the batch of each sample's RMSE, which weighs noise levels evenly."""
    return ((prediction - clean).square().mean((1, 2, 3)) + 1e-6).sqrt().mean()


def learning_rate(step: int, steps: int, peak: float, warm_up: int, decay: int) -> float:
    """Warm-up, constant, linear decay to zero over the last `decay` steps."""
    return peak * min(1.0, (step + 1) / warm_up) * min(1.0, max(0.0, (steps - step) / decay))


def main() -> None:
    """Pre-fit until `--steps`, or until interrupted."""
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
    args = parser.parse_args()

    photographs = load_photographs(args.folders, args.channels)
    small = load_photographs(args.folders, args.channels, parts=(2, 3))
    mix, ways = MIXES[args.noise]

    def sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        kind = str(rng.choice(list(mix), p=list(mix.values())))
        is_soft = rng.random() < SOFT_SHARES.get(kind, SOFT_SHARE)
        clean = soft(small, args.size, rng) if is_soft else sample_clean(photographs, args.size, rng, ways)
        return with_noise(clean, kind, rng, args.sigma_power)

    network = Self2SelfNet(args.channels, ENCODER_WIDTH, DECODER_WIDTHS)
    initialise(network, "kaiming", torch.Generator().manual_seed(args.seed))
    if args.start:
        weights = {name: tensor.float() for name, tensor in load_file(args.start).items()}
        as_many = len(weights["head.bias"]) == args.channels
        network.load_state_dict(weights if as_many else grey_from_colour(weights))
    network = network.to(memory_format=torch.channels_last)
    computes = FusedTrainingForward(network, torch.bfloat16 if args.bfloat16 else torch.float32)
    average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    betas = (0.9, 0.99)
    optimiser = (
        Adam(network.parameters(), args.rate, betas)
        if args.matrix_rate is None
        else Muon(network, args.rate, args.matrix_rate, betas)
    )
    state_path = args.output.with_suffix(".state.safetensors")
    first = load_state(state_path, network, optimiser, average) if state_path.exists() else 0
    print(f"{len(photographs)} photographs; step {first} of {args.steps}", flush=True)

    saved, recent = time.monotonic(), []
    for step in range(first, args.steps):
        rng = generator(args.seed, step, Stream.CROP)
        clean, noisy = map(np.stack, zip(*(sample(rng) for _ in range(args.batch)), strict=True))
        drop_rate = more_often_low(*args.drop_rates, rng)
        specs = mask_specs(args.channels, ENCODER_WIDTH, DECODER_WIDTHS, drop_rate, args.decoder_drop_rate)
        size = {"H": args.size, "W": args.size}
        maker = MaskMaker(specs, size, args.seed, Stream.FIT, channels_last=True)
        masks = maker.make(step * args.batch, args.batch)
        network.decoder_keep = specs[1].keep_probability
        for group in optimiser.param_groups:
            scale = group.get("rate_scale", 1.0)
            group["lr"] = scale * learning_rate(step, args.steps, args.rate, args.warm_up, args.decay)
        prediction = computes(torch.from_numpy(noisy), *map(torch.from_numpy, masks.values()))
        loss = root_mean_square(prediction, torch.from_numpy(clean))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.3)
        optimiser.step()
        rate = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                average[name].lerp_(tensor, 1 - rate)
        recent.append(loss.item())
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}  rmse {np.mean(recent) * 255:.2f}", flush=True)
            recent = []
        if time.monotonic() - saved > SAVE_SECONDS or step + 1 == args.steps:
            save_state(state_path, step + 1, network, optimiser, average)
            save_weights(args.output, average)
            saved = time.monotonic()


def grey_from_colour(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A grey network that does what the colour network does on three equal channels with equal masks."""
    grey = dict(weights)
    mask, image = weights["stem.conv.weight"].chunk(2, dim=1)
    grey["stem.conv.weight"] = torch.cat([mask.sum(1, keepdim=True), image.sum(1, keepdim=True)], dim=1)
    for name in ("head.weight", "head.bias"):
        grey[name] = weights[name].mean(0, keepdim=True)
    return grey


def save_weights(path: Path, average: dict[str, Tensor]) -> None:
    """The averaged weights in float16, which halves the file and changes no prediction visibly."""
    temporary = path.with_suffix(".part")
    save_file({name: tensor.to(torch.float16).contiguous() for name, tensor in average.items()}, temporary)
    temporary.replace(path)


def save_state(path: Path, step: int, network: Self2SelfNet, optimiser: Adam, average: dict[str, Tensor]) -> None:
    """Everything that continuing needs."""
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
