"""DnCNN for an unknown noise level (Zhang et al. 2017, "Beyond a Gaussian denoiser"), with the authors' weights.

They were trained on clean photographs with white Gaussian noise of σ up to 55, not clipped. Batch normalisation is
merged into the convolutions. The network predicts the noise.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.pairs import FloatArray, Pair
from benchmarks.rivals.matlab import Layer, read_layers, run_convolutions
from benchmarks.rivals.rival import Rival, file_hash, without_package


def run(layers: list[Layer], noisy: FloatArray) -> FloatArray:
    """`noisy`, (C, H, W) in [0, 1], less the noise that the network predicts."""
    image = np.ascontiguousarray(noisy, np.float32)
    with torch.inference_mode():
        noise = run_convolutions(layers, torch.from_numpy(image)[None])
    return np.asarray(image - noise[0].numpy())


_layers = cache(read_layers)


def weights_file(anchors: Path, channels: int) -> Path:
    """The file of weights for images of one or three channels."""
    return anchors / f"GD_{'Gray' if channels == 1 else 'Color'}_Blind.mat"


def denoise(anchors: Path, pair: Pair, sigma: float) -> FloatArray:
    """DnCNN with the weights in the folder `anchors`."""
    return run(_layers(weights_file(anchors, len(pair.noisy))), pair.noisy)


def rivals(anchors: Path) -> list[Rival]:
    """DnCNN, blind."""

    def missing() -> str:
        absent = [path for count in (1, 3) if not (path := weights_file(anchors, count)).is_file()]
        return without_package("h5py") or (f"there is no {absent[0].name} in --anchors" if absent else "")

    return [
        Rival(
            "dncnn",
            "trained on photographs with white Gaussian noise up to σ 55",
            False,
            partial(denoise, anchors),
            missing,
            lambda pair: {"weights_sha256": file_hash(weights_file(anchors, len(pair.noisy)))},
        )
    ]
