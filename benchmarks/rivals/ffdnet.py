"""FFDNet (Zhang, Zuo and Zhang 2018, "FFDNet: toward a fast and flexible solution for CNN-based image denoising").

The weights are the authors', for MatConvNet: for colour or grey, for noise that is not clipped or, as in files of 8
bits, is. They were trained on clean photographs with white Gaussian noise.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.pairs import FloatArray, Pair
from benchmarks.rivals.matlab import Layer, read_layers, run_convolutions
from benchmarks.rivals.rival import Rival, file_hash, padded_even, without_package

KINDS = {"ffdnet": "FFDNet", "ffdnet-clip": "FFDNet_Clip"}
"""Name of a rival, and how the names of its files begin."""


def take_apart(pixels: FloatArray) -> FloatArray:
    """Four images of half the size for each channel; the one of row r and column c is number 2 c + r.

    Args:
        pixels: (C, H, W), even sides.

    Returns:
        (4 C, H / 2, W / 2): first the four of the first channel.
    """
    parts = [pixels[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return np.stack(parts, 1).reshape(-1, *parts[0].shape[1:])


def put_together(parts: FloatArray) -> FloatArray:
    """The way back from `take_apart`."""
    channels, height, width = len(parts) // 4, *parts.shape[1:]
    pixels = np.empty((channels, 2 * height, 2 * width), parts.dtype)
    for number, part in enumerate(parts.reshape(channels, 4, height, width).swapaxes(0, 1)):
        column, row = divmod(number, 2)
        pixels[:, row::2, column::2] = part
    return pixels


def run(layers: list[Layer], noisy: FloatArray, sigma: float) -> FloatArray:
    """The network on one image.

    Args:
        layers: of the file of weights.
        noisy: (C, H, W) in [0, 1].
        sigma: of the noise, in 8-bit grey levels.
    """
    _, height, width = noisy.shape
    parts = take_apart(padded_even(noisy).astype(np.float32))
    level = np.full((1, *parts.shape[1:]), sigma / 255, np.float32)
    with torch.inference_mode():
        output = run_convolutions(layers, torch.from_numpy(np.concatenate([parts, level]))[None])
    return put_together(output[0].numpy())[:, :height, :width]


_layers = cache(read_layers)


def weights_file(anchors: Path, beginning: str, channels: int) -> Path:
    """The file of weights for images of one or three channels."""
    return anchors / f"{beginning}_{'gray' if channels == 1 else 'color'}.mat"


def denoise(anchors: Path, beginning: str, pair: Pair, sigma: float) -> FloatArray:
    """FFDNet with the weights in the folder `anchors` whose names begin with `beginning`."""
    return run(_layers(weights_file(anchors, beginning, len(pair.noisy))), pair.noisy, sigma)


def rivals(anchors: Path) -> list[Rival]:
    """FFDNet for noise that is not clipped, and for noise that is."""

    def missing(beginning: str) -> str:
        absent = [path for count in (1, 3) if not (path := weights_file(anchors, beginning, count)).is_file()]
        return without_package("h5py") or (f"there is no {absent[0].name} in --anchors" if absent else "")

    return [
        Rival(
            name,
            "trained on photographs with white Gaussian noise" + (", clipped" if "clip" in name else "") + "; told σ",
            True,
            partial(denoise, anchors, beginning),
            partial(missing, beginning),
            lambda pair, beginning=beginning: {  # type: ignore[misc]
                "weights_sha256": file_hash(weights_file(anchors, beginning, len(pair.noisy)))
            },
        )
        for name, beginning in KINDS.items()
    ]
