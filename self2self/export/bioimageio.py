"""Packs a plain model as a model of BioImage.IO, for Fiji, ilastik, deepImageJ and other programs of microscopists.

A package is a ZIP file with a description (``rdf.yaml``, https://bioimage.io/docs, version 0.5), the ONNX file, and an
image with its result, which programs test the model with. The description says how values of the file become values of
the network and back, so the model takes images as they are stored.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.export.package import packed
from self2self.export.plain import build_plain_model, finished_by_torch, verify_plain
from self2self.export.to_onnx import serialise
from self2self.export.verify import Verification
from self2self.machine.files import atomic_path
from self2self.machine.marks import Mark
from self2self.model.contract import DENOISED, IMAGE, Contract
from self2self.model.graph import OPSET_VERSION

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet

FORMAT_VERSION = "0.5.3"
HALO = 32
"""Pixels at each side of a tile whose results are to be thrown away."""
SMALLEST = 3 * HALO
"""Smallest side of an image for programs that cut off the halo. The network itself takes any size."""
TESTED_SIZE = 128
"""Side of the image that programs test the model with, in pixels."""
PAPER = {
    "text": "Ko and Lee, Self2Self+: Single-Image Denoising with Self-Supervised Learning and Image Quality Assessment "
    "Loss, 2023",
    "url": "https://arxiv.org/abs/2307.10695",
}


def export_bioimageio(
    network: Self2SelfNet, contract: Contract, path: str | os.PathLike[str], name: str, mark: Mark | None = None
) -> Verification:
    """Write `network` as a BioImage.IO package, after its graph was verified against PyTorch.

    Args:
        network: without masks.
        contract: of its plain model.
        path: of the package (``.zip``); an existing one is replaced.
        name: name of the model; letters, digits, spaces and hyphens.
        mark: says which job made the file; None for none.

    Raises:
        VerificationError: as for `export.plain.export_plain`.
        ResourceError, OutputError: the file cannot be written.
    """
    data = serialise(build_plain_model(network, contract))
    with atomic_path(path, mark=mark) as temporary:
        temporary.write_bytes(data)
        check = verify_plain(network, contract, temporary, source=os.fspath(path))
        temporary.write_bytes(packed(_files(network, contract, data, name)))
    return check


def _files(network: Self2SelfNet, contract: Contract, model: bytes, name: str) -> dict[str, bytes]:
    """The files of the package by name."""
    shape = (1, contract.channels, TESTED_SIZE, TESTED_SIZE)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    black, white = contract.image_range or (0.0, 1.0)
    denoised = finished_by_torch(network, contract, image)
    description = described(contract, name, hashlib.sha256(model).hexdigest())
    return {
        # Every JSON document is a YAML document, so no library for YAML is needed.
        "rdf.yaml": json.dumps(description, indent=2).encode(),
        "README.md": _readme(contract, name).encode(),
        "model.onnx": model,
        "test_image.npy": _npy(black + (white - black) * image),
        "test_denoised.npy": _npy(black + (white - black) * denoised),
    }


def described(contract: Contract, name: str, digest: str) -> dict[str, Any]:
    """The description of a model, in plain values.

    Args:
        contract: of the plain model.
        name: of the model.
        digest: SHA-256 of the ONNX file, hexadecimal.
    """
    black, white = contract.image_range or (0.0, 1.0)
    scale = white - black
    channels = [f"channel{number}" for number in range(contract.channels)]
    free = {"min": SMALLEST, "step": 1}
    same = {side: {"tensor_id": IMAGE, "axis_id": side} for side in "yx"}
    batch, channel = {"type": "batch"}, {"type": "channel", "channel_names": channels}
    return {
        "type": "model",
        "format_version": FORMAT_VERSION,
        "name": name,
        "description": "Self2Self+ network, fitted to one image; denoises images with the same noise",
        "authors": [{"name": "self2self"}],
        "cite": [PAPER],
        "documentation": "README.md",
        "tags": ["denoising", "self-supervised", "2d"],
        "inputs": [
            {
                "id": IMAGE,
                "axes": [batch, channel, *({"type": "space", "id": side, "size": free} for side in "yx")],
                "test_tensor": {"source": "test_image.npy"},
                "data": {"type": "float32"},
                "preprocessing": [
                    {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                    {"id": "scale_linear", "kwargs": {"gain": 1 / scale, "offset": -black / scale}},
                    {"id": "clip", "kwargs": {"min": 0.0, "max": 1.0}},
                ],
            }
        ],
        "outputs": [
            {
                "id": DENOISED,
                "axes": [
                    batch,
                    channel,
                    *({"type": "space", "id": side, "size": same[side], "halo": HALO} for side in "yx"),
                ],
                "test_tensor": {"source": "test_denoised.npy"},
                "data": {"type": "float32"},
                "postprocessing": [{"id": "scale_linear", "kwargs": {"gain": scale, "offset": black}}],
            }
        ],
        "weights": {"onnx": {"source": "model.onnx", "sha256": digest, "opset_version": OPSET_VERSION}},
    }


def _npy(values: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.astype(np.float32))
    return buffer.getvalue()


def _readme(contract: Contract, name: str) -> str:
    black, white = contract.image_range or (0.0, 1.0)
    return (
        f"# {name}\n\n"
        "A Self2Self+ network that was fitted to one noisy image, without any clean one. It denoises images of the "
        "same instrument and settings in one pass.\n\n"
        f"- Input: images with {contract.channels} channel(s), as they are stored. Values from {black:g} to {white:g} "
        "are the range of the fitted image; what is outside is clipped.\n"
        "- Noise: the network removes noise like that of the fitted image. Fit again where the noise differs.\n"
        "\n## Validation\n\n"
        "Compare the difference between image and result with the noise that you expect. Structures in the difference "
        "were removed from the image.\n"
    )
