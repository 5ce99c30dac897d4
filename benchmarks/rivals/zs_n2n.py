"""ZS-N2N (Mansour and Heckel 2023, "Zero-shot Noise2Noise: efficient image denoising without any data").

Written from the paper: two images of half the size, each the mean of one diagonal of every block of 2x2 pixels; a
network of two convolutions of 3x3 pixels with 48 channels and one of 1x1, which predicts the noise; a loss that has
each of the two predict the other, and one that has the small results agree with the small copies of the large one.
The numbers are those of the authors' notebook: 2000 steps of Adam, rate 1e-3, half of it after 1500.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.pairs import FloatArray, Pair
from benchmarks.rivals.rival import Rival, padded_even

STEPS, HALVED_AFTER = 2000, 1500
RATE = 1e-3
WIDTH = 48
SLOPE = 0.2
"""Of the leaky rectifier below 0."""
SEED = 0


def diagonals(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The means of both diagonals of all blocks of 2x2 pixels.

    Args:
        images: (N, C, H, W), even sides.

    Returns:
        (N, C, H / 2, W / 2) each: from top right to bottom left, and from top left to bottom right.
    """
    rising = (images[..., 0::2, 1::2] + images[..., 1::2, 0::2]) / 2
    falling = (images[..., 0::2, 0::2] + images[..., 1::2, 1::2]) / 2
    return rising, falling


def loss(network: nn.Module, noisy: torch.Tensor) -> torch.Tensor:
    """Both terms of the paper's loss for the image `noisy`, (1, C, H, W)."""
    first, second = diagonals(noisy)
    both = torch.cat([first, second])
    small = both - network(both)
    residual = functional.mse_loss(small, torch.cat([second, first]))
    consistency = functional.mse_loss(small, torch.cat(diagonals(noisy - network(noisy))))
    # Means over both images are the paper's halves of two sums.
    return residual + consistency


def denoise(pair: Pair, sigma: float, steps: int = STEPS) -> FloatArray:
    """A fit to the one noisy image of `pair`, (C, H, W), and its prediction."""
    channels, height, width = pair.noisy.shape
    noisy = torch.from_numpy(padded_even(pair.noisy))[None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(WIDTH, channels, 1),
        )
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, HALVED_AFTER, 0.5)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(network, noisy).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.inference_mode():
        return np.asarray((noisy - network(noisy))[0, :, :height, :width].numpy())


def rivals() -> list[Rival]:
    """ZS-N2N."""
    settings = {"steps": STEPS, "seed": SEED}
    return [Rival("zs-n2n", "nothing", False, partial(denoise, steps=STEPS), inputs=lambda _: dict(settings))]
