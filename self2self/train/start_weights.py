"""Loads the start weights that ship with the package, for a noise level that they are told.

The weights were fitted to openly licensed photographs (docs/model-card.md). So the result of a fit that starts from
them depends on more than the user's image; with ``--init scratch`` it depends on the image alone.

One file serves all noise levels: every bias has a slope in the level. For a given level, bias and slope fold into an
ordinary bias, so neither the network nor its engines know of levels. The file serves grey images, too: a network for
colours that sees three equal channels is one for a single channel.

A second file has other weights of the same network, for passes in which nothing is hidden and nothing dropped: a
*single pass* (`train.single_pass`).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from self2self.errors import FileFormatError, UsageError, typed
from self2self.imaging.noise import center_crop
from self2self.machine.marks import file_sha256

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from self2self.train.recipes import Recipe

PRETRAINED_FILE = Path(__file__).parent.parent / "weights" / "pretrained.safetensors"
"""Start weights for colour, with a tensor of slopes beside each bias."""
SINGLE_PASS_FILE = PRETRAINED_FILE.with_name("single-pass.safetensors")
"""Start weights for passes without masks; the tensors are those of `PRETRAINED_FILE`."""
CHECKSUMS_FILE = PRETRAINED_FILE.with_name("SHA256SUMS")
"""Digests of the two, as `sha256sum` writes and checks them."""
SLOPE, BIAS = "slope", "bias"
"""Last part of the names of slopes and biases."""
GREY_LEVELS_PER_UNIT = 10.0
"""Change of the noise level, in 8-bit grey levels, that adds a slope to its bias once."""
SMALLEST_TOLD, LARGEST_TOLD = 0.5, 160.0
"""Range of the levels that the network is told, in 8-bit grey levels. It has learnt levels up to 70."""
CHANNELS = (1, 3)
"""Numbers of channels for which there are start weights."""
TRIAL_SIDE = 256
"""Side of the part of an image on which start weights are tried, in pixels; a pass over it takes 0.1 s."""
LARGEST_EXCESS = 1.0
"""Largest distance of a prediction from [0, 1] in a single pass. For many kinds of images, noise and patterns it is
less than a half."""


def has_pretrained_weights(channels: int) -> bool:
    """Whether start weights for images with this number of channels ship with the package."""
    return channels in CHANNELS and PRETRAINED_FILE.is_file()


def pretrained_weights(channels: int, sigma: float, *, single_pass: bool = False) -> dict[str, torch.Tensor]:
    """The start weights that are told a noise level, float32 by name.

    Args:
        channels: channels of the image.
        sigma: standard deviation of the noise, in 8-bit grey levels.
        single_pass: whether they are for passes without masks.

    Raises:
        UsageError: there are none for this number of channels.
        FileFormatError: a file is not the one that ships with the package.
    """
    if not has_pretrained_weights(channels):
        raise UsageError(
            f"{typed('--init pretrained')} has no weights for {channels} channels. Use {typed('--init scratch')}."
        )
    tensors = _told_weights(channels, single_pass)
    return {
        name: tensor + sigma / GREY_LEVELS_PER_UNIT * tensors[slope_name(name)] if name.endswith(BIAS) else tensor
        for name, tensor in tensors.items()
        if not name.endswith(SLOPE)
    }


def slope_name(bias: str) -> str:
    """The name of the slope that belongs to a bias."""
    return bias.removesuffix(BIAS) + SLOPE


@lru_cache
def _told_weights(channels: int, single_pass: bool) -> dict[str, torch.Tensor]:
    """Weights, biases and slopes, float32 by name; the caller must not change them."""
    from self2self.train.checkpoint import read_tensors

    path = SINGLE_PASS_FILE if single_pass else PRETRAINED_FILE
    check_shipped(path)
    tensors = {name: tensor.float() for name, tensor in read_tensors(path)[0].items()}
    return tensors if channels == max(CHANNELS) else for_one_channel(tensors)


def check_shipped(file: Path) -> None:
    """Compare a file of weights with its digest in `CHECKSUMS_FILE`, which lies beside it.

    Raises:
        FileFormatError: they differ.
    """
    lines = (line.split() for line in file.with_name(CHECKSUMS_FILE.name).read_text().splitlines())
    if {name: digest for digest, name in lines}.get(file.name) != file_sha256(file):
        raise FileFormatError(
            f"{file}: is not the file that ships with this version. Install it again: pip install --force-reinstall "
            "self2self"
        )


def for_one_channel(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn weights for colour into those that see one channel as three equal ones, and return their mean prediction.

    Args:
        tensors: weights, biases and slopes of a network for three channels, by name.
    """
    import torch

    first = tensors["stem.conv.weight"]
    # The network reads the mask of each channel, and then the masked channels.
    grey = dict(tensors)
    grey["stem.conv.weight"] = torch.stack([part.sum(1) for part in first.chunk(2, dim=1)], dim=1)
    grey |= {name: tensor.mean(0, keepdim=True) for name, tensor in tensors.items() if name.startswith("head.")}
    return grey


def predicts_an_image(weights: dict[str, torch.Tensor], pixels: NDArray[np.float32], recipe: Recipe) -> bool:
    """Whether `weights` predict values near [0, 1] for `pixels`, judged by one pass over the image's middle.

    For an image unlike those of its training, a network's prediction can be wrong by any factor, and a fit does not
    recover from such a start.

    Args:
        weights: weights of a network of `recipe`.
        pixels: float32 (C, H, W), the noisy image.
        recipe: recipe of the fit.
    """
    from self2self.train.prediction import predict

    prediction = predict(weights, center_crop(pixels, TRIAL_SIDE), recipe, passes=1)
    return bool(np.abs(prediction - 0.5).max() <= 0.5 + LARGEST_EXCESS)
