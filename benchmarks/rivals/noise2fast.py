"""Noise2Fast (Lequyer et al. 2022, "A fast blind zero-shot denoiser", Nature Machine Intelligence).

Written from the paper: the pixels of each colour of a chequerboard make an image of half the height or half the
width, so there are four pairs, of which one is drawn for each step. The network has four double convolutions of 3x3
pixels with 64 channels, then one of 1x1 and a sigmoid; its loss is the cross-entropy. After each step it sees the
whole noisy image. It stops once 100 steps in a row have not come nearer to that image, and the mean of its last 100
results is the result. An image of three channels is taken as three images of one, as the authors' program for stacks
does.
"""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.pairs import FloatArray, Pair
from benchmarks.rivals.rival import Rival, padded_even

RATE = 1e-3
WIDTH, DOUBLES = 64, 4
PATIENCE = 100
"""Steps in a row without a new best that end a fit, and last results of which the mean is taken."""
SEED = 0


def chequerboards(image: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The four pairs of input and target.

    Args:
        image: (H, W), even sides.

    Returns:
        Pairs of (1, 1, H, W / 2) and of (1, 1, H / 2, W): both colours of the board, in both orders.
    """
    height, width = image.shape
    white = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 0
    # Each row has every second pixel of a colour, so taking those out squeezes the image to the left; columns likewise.
    narrow = [image[colour].reshape(height, width // 2) for colour in (white, ~white)]
    flat = [image.T[colour.T].reshape(width, height // 2).T for colour in (white, ~white)]
    pairs = [(narrow[0], narrow[1]), (flat[0], flat[1])]
    both = [order for first, second in pairs for order in ((first, second), (second, first))]
    return [(left[None, None].contiguous(), right[None, None].contiguous()) for left, right in both]


def make_network(width: int = WIDTH) -> nn.Sequential:
    """The network for one channel, (N, 1, H, W) to the same shape in (0, 1)."""
    layers: list[nn.Module] = []
    for number in range(2 * DOUBLES):
        layers += [nn.Conv2d(width if number else 1, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1), nn.Sigmoid())


def denoise_channel(noisy: FloatArray, patience: int = PATIENCE, width: int = WIDTH) -> FloatArray:
    """A fit to one channel, (H, W), and the mean of its last results."""
    low, span = float(noisy.min()), float(np.ptp(noisy)) or 1.0
    height, across = noisy.shape
    image = torch.from_numpy((padded_even(noisy[None])[0] - low) / span)
    choices = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = make_network(width)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    pairs, whole = chequerboards(image), image[None, None]
    last: deque[torch.Tensor] = deque(maxlen=patience)
    best, since = np.inf, 0
    while since <= patience:
        source, target = pairs[int(torch.randint(len(pairs), (), generator=choices))]
        optimiser.zero_grad()
        functional.binary_cross_entropy(network(source), target).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.inference_mode():
            result = network(whole)
        last.append(result[0, 0])
        error = float(functional.mse_loss(result, whole))
        best, since = (error, 0) if error < best else (best, since + 1)
    mean = torch.stack(list(last)).mean(0).numpy()
    return np.asarray(mean[:height, :across] * span + low, np.float32)


def denoise(pair: Pair, sigma: float, patience: int = PATIENCE, width: int = WIDTH) -> FloatArray:
    """A fit to each channel of the noisy image of `pair`, (C, H, W)."""
    return np.stack([denoise_channel(channel, patience, width) for channel in pair.noisy])


def rivals() -> list[Rival]:
    """Noise2Fast."""
    settings = {"patience": PATIENCE, "seed": SEED}
    return [Rival("noise2fast", "nothing", False, partial(denoise, patience=PATIENCE), inputs=lambda _: dict(settings))]
