"""A plain PaQ-2-PiQ with the same names of weights as pyiqa's, which tests compare with it."""

import itertools
import math
from pathlib import Path

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + shortcut)


class PlainPaq2Piq(nn.Module):
    """Maps [N, 3, H, W] to scores [N]."""

    def __init__(self) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        widths = (64, 64, 128, 256, 512)
        stages = [
            nn.Sequential(Block(inputs, outputs, 1 if inputs == outputs else 2), Block(outputs, outputs, 1))
            for inputs, outputs in itertools.pairwise(widths)
        ]
        self.body = nn.Sequential(*stem, *stages)
        # In pyiqa's head two modules without weights come first; the other identities stand for dropout.
        self.head = nn.Sequential(
            nn.Identity(),
            nn.Identity(),
            nn.BatchNorm1d(1024),
            nn.Identity(),
            nn.Linear(1024, 512),
            nn.ReLU(),
            nn.BatchNorm1d(512),
            nn.Identity(),
            nn.Linear(512, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        pooled = plain_roi_pool(self.body(image), *image.shape[2:])
        return self.head(torch.cat([pooled.amax((2, 3)), pooled.mean((2, 3))], 1))[:, 0]


def plain_roi_pool(features: Tensor, height: int, width: int) -> Tensor:
    """RoIPool (Fast R-CNN, section 2.1) of the whole image into 2x2 bins, one position at a time; stride 32."""
    bins: dict[tuple[int, int], list[Tensor]] = {(row, column): [] for row in (0, 1) for column in (0, 1)}
    bin_height, bin_width = ((int(size / 32 + 0.5) + 1) / 2 for size in (height, width))
    for y in range(features.shape[2]):
        for x in range(features.shape[3]):
            for row, column in bins:
                in_row = math.floor(row * bin_height) <= y < math.ceil((row + 1) * bin_height)
                in_column = math.floor(column * bin_width) <= x < math.ceil((column + 1) * bin_width)
                if in_row and in_column:
                    bins[row, column].append(features[:, :, y, x])
    empty = features.new_zeros(features.shape[:2])
    pooled = [torch.stack(values).amax(0) if values else empty for values in bins.values()]
    return torch.stack(pooled, 2).reshape(*features.shape[:2], 2, 2)


def random_paq2piq(seed: int = 0) -> PlainPaq2Piq:
    """A network with random weights and scores of about 60."""
    network = PlainPaq2Piq().eval()
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=draws)
            elif tensor.ndim > 1:
                tensor.normal_(0, math.sqrt(2 / tensor[0].numel()), generator=draws)
            elif tensor.is_floating_point() and not name.endswith("weight"):
                tensor.normal_(0, 0.1, generator=draws)
        network.head[8].bias.fill_(60)
    return network


def write_weights(path: Path, seed: int = 0) -> Path:
    torch.save(random_paq2piq(seed).state_dict(), path)
    return path
