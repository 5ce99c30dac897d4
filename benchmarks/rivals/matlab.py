"""Layers of networks for MatConvNet, from MATLAB v7.3 files, which are HDF5.

``net.layers`` holds references to layers, each with a ``type`` of UTF-16 letters. MATLAB counts the first axis as the
fastest, so axes come out reversed: weights of a convolution are (out, in, width, height). It also drops last axes of
length one, so those of a single output are (in, width, height).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer.

    Attributes:
        kind: its ``type``: ``conv``, ``relu``, ``SubP``, ``concat`` and so on.
        weights: (out, in, height, width) of a convolution.
        bias: (out,) of a convolution.
        scale: of ``SubP``: 0.5 takes an image apart into four, 2 puts four together.
    """

    kind: str
    weights: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    scale: float = 1.0


def read_layers(path: Path) -> list[Layer]:
    """All layers of a network, in order."""
    import h5py

    with h5py.File(path) as file:
        return [_layer(file, file[reference]) for reference in np.ravel(file["net"]["layers"][()])]


def _layer(file: object, group: object) -> Layer:
    # h5py has no types for what a key gives.
    kind = "".join(chr(letter) for letter in np.ravel(group["type"][()]))  # type: ignore[index]
    if kind == "SubP":
        return Layer(kind, scale=float(np.ravel(group["scale"][()])[0]))  # type: ignore[index]
    if kind != "conv":
        return Layer(kind)
    stored, bias = (
        np.asarray(file[reference][()], np.float32)  # type: ignore[index]
        for reference in np.ravel(group["weights"][()])  # type: ignore[index]
    )
    if stored.ndim == 3:
        stored = stored[None]
    return Layer(kind, np.ascontiguousarray(stored.transpose(0, 1, 3, 2)), bias.ravel())


def run_convolutions(layers: list[Layer], values: torch.Tensor) -> torch.Tensor:
    """Convolutions with zeros around the image, and the rectifiers between them; other layers are skipped.

    Args:
        layers: as read.
        values: (1, C, H, W).
    """
    for layer in layers:
        if layer.kind == "relu":
            values = torch.relu(values)
        elif layer.weights is not None and layer.bias is not None:
            padding = layer.weights.shape[-1] // 2
            weights, bias = torch.from_numpy(layer.weights), torch.from_numpy(layer.bias)
            values = torch.nn.functional.conv2d(values, weights, bias, padding=padding)
    return values
