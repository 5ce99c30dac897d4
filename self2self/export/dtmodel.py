"""Packs a plain model as a model package of darktable, for its module "neural restore".

A package is a ZIP file with one folder, which has the name of the model and holds ``config.json`` and ``model.onnx``.
darktable cuts a photograph into tiles of one size, and gives them as sRGB values from 0 (black) to 1 (white). So the
network, which is fitted to the range of its image's own values, gets its input through a change of range in the graph.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from self2self.errors import UsageError, typed
from self2self.export.package import packed
from self2self.export.plain import build_plain_model, verify_plain
from self2self.export.to_onnx import serialise
from self2self.export.verify import Verification
from self2self.machine.files import atomic_path
from self2self.machine.marks import Mark
from self2self.model.contract import Contract

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet

TILE = 768
"""Side of the tiles that darktable gives to the network, in pixels."""
OPSET = 20
VERSION = "1.0"


def export_dtmodel(
    network: Self2SelfNet,
    contract: Contract,
    path: str | os.PathLike[str],
    name: str,
    ends: tuple[float, float] = (0.0, 1.0),
    mark: Mark | None = None,
) -> Verification:
    """Write `network` as a darktable model package, after its graph was verified against PyTorch.

    Args:
        network: without masks, for RGB images.
        contract: of its plain model.
        path: of the package (``.dtmodel``); an existing one is replaced.
        name: name of the model, shown by darktable; small letters, digits and hyphens.
        ends: values, from black (0) to white (1), that are 0 and 1 to the network.
        mark: says which job made the file; None for none.

    Raises:
        UsageError: the network is not for RGB images.
        VerificationError: as for `export.plain.export_plain`.
        ResourceError, OutputError: the file cannot be written.
    """
    if contract.channels != 3:
        raise UsageError(f"{typed('--format dtmodel')} is for RGB images; this fit has {contract.channels} channel(s).")
    model = build_plain_model(network, contract, (TILE, TILE), opset=OPSET, ends=ends)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    data = serialise(model)
    with atomic_path(path, mark=mark) as temporary:
        temporary.write_bytes(data)
        check = verify_plain(network, contract, temporary, size=(TILE, TILE), source=os.fspath(path), ends=ends)
        temporary.write_bytes(packed(_files(data, name)))
    return check


def _files(model: bytes, name: str) -> dict[str, bytes]:
    """The files of the package of `model`, an ONNX file, by name."""
    identifier = f"denoise-{name}"
    config = {
        "id": identifier,
        "name": name.replace("-", " "),
        "description": "Self2Self+ network, fitted to one image of the same camera and sensitivity",
        "task": "denoise",
        "arch": "self2self",
        "backend": "onnx",
        "version": VERSION,
        "num_inputs": 1,
        "tiling": True,
        # The graph has this size alone; without it, darktable would choose one by the free memory.
        "attributes": {"input_sizes": [TILE]},
    }
    return {f"{identifier}/config.json": json.dumps(config, indent=2).encode(), f"{identifier}/model.onnx": model}
