"""Compare passes of networks with live dropout with as many runs of the network in PyTorch: speed and statistics.

    python -m benchmarks.live_speed -o benchmarks/results/live-speed.json

Speed: 100 passes over one image, with the part that no mask reaches computed once, against 100 runs in PyTorch, in
turn, on the same threads. Statistics: mean and standard deviation of 4000 passes against 4000 runs of PyTorch's own
dropout; z is the difference of two means in its standard error. The networks have random weights; torchvision and timm
have to be installed. Networks that are in the output already stay as they are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.results_file import earlier_rows, provenance, result_parser, write_result

PASSES, ROUNDS = 100, 5
COMPARED, CHUNK = 4000, 50
"""Passes whose statistics are compared, and how many PyTorch runs at a time, as samples of a batch."""


@dataclass(frozen=True)
class Network:
    """A network with an image.

    Attributes:
        make: returns the network for images of that side.
        include: of `export_live`.
        side: of the image whose passes are timed.
        small: of the image whose statistics are compared.
    """

    make: Callable[[int], Any]
    include: str | None = None
    side: int = 224
    small: int = 64


def resnet18(side: int) -> Any:
    """A resnet18 with dropout before its last layer."""
    from torch import nn
    from torchvision import models

    network = models.resnet18(weights=None)
    network.fc = nn.Sequential(nn.Dropout(0.3), nn.Linear(512, 1000))
    return network


def vit(side: int) -> Any:
    """A tiny vision transformer with dropout in all blocks."""
    import timm

    rates = {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_rate": 0.1}
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=side, **rates)


NETWORKS = {
    "resnet18, dropout head": Network(resnet18),
    "ViT, last block": Network(vit, include="blocks.11.*"),
    "ViT, all blocks": Network(vit),
}


def measure(network: Network, folder: Path) -> dict[str, Any]:
    """Times and statistics of one network."""
    return {**_speed(network, folder / "large.onnx"), **_statistics(network, folder / "small.onnx")}


def _exported(network: Network, side: int, path: Path) -> tuple[Any, Any, Any]:
    """The network with the draws that stay in training mode, the file, and an image."""
    import torch

    from self2self.live.export import export_live
    from self2self.live.model import load_live

    torch.manual_seed(0)
    model, image = network.make(side), torch.randn(1, 3, side, side)
    done = export_live(model, image, path, include=network.include)
    sites = {mask.site for mask in done.contract.masks}
    model.eval()
    for name, module in model.named_modules():
        module.training = name in sites
    return model, load_live(path), image


def _speed(network: Network, path: Path) -> dict[str, Any]:
    import torch

    model, live, image = _exported(network, network.side, path)
    ours, theirs = [], []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            start = time.perf_counter()
            live.predict(image.numpy(), PASSES)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(PASSES):
                model(image)
            theirs.append(time.perf_counter() - start)
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {"seconds": median(ours), "pytorch_seconds": median(theirs), "ratio": median(ratios), "ratios": ratios}


def _statistics(network: Network, path: Path) -> dict[str, Any]:
    import torch

    model, live, image = _exported(network, network.small, path)
    found = live.predict(image.numpy(), COMPARED, seed=1).first
    torch.manual_seed(2)
    with torch.inference_mode():
        runs = [model(image.expand(CHUNK, -1, -1, -1)).numpy() for _ in range(COMPARED // CHUNK)]
    passes = np.concatenate(runs).astype(np.float64)
    mean, std = passes.mean(0), passes.std(0, ddof=1)
    error = np.sqrt((std**2 + found.std[0].astype(np.float64) ** 2) / COMPARED)
    z = (found.mean[0] - mean) / error
    return {"rms_z": float(np.sqrt(np.mean(z**2))), "std_ratio": float(np.mean(found.std[0] / std))}


def main() -> None:
    """Measure all networks, print a row for each, and write the result."""
    from self2self.train.iqa import import_torchvision

    parser = result_parser(__doc__)
    parser.add_argument("--only", default="", help="networks whose name contains this text")
    args = parser.parse_args()
    import_torchvision()
    settings = {"passes": PASSES, "rounds": ROUNDS, "compared": COMPARED}
    rows = earlier_rows(args.output, **settings)
    done = [row["network"] for row in rows]
    for name, network in NETWORKS.items():
        if args.only in name and name not in done:
            with tempfile.TemporaryDirectory() as folder:
                rows.append({"network": name, **measure(network, Path(folder))})
            print(rows[-1], flush=True)
            write_result(args.output, {**provenance("live_speed"), **settings, "rows": rows})


if __name__ == "__main__":
    main()
