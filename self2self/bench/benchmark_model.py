"""The benchmark model: the network of an `.onnx` file, or a recipe's network with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self2self.bench.measure import convolution_gflop
from self2self.model.contract import Contract
from self2self.runtime.model import Model, load_model

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet
    from self2self.train.recipes import Recipe


@dataclass(frozen=True, slots=True)
class BenchmarkModel:
    """One network: as a PyTorch module and as an exported file.

    Attributes:
        source: the origin of the weights, for people: a file name or "random weights".
        network: the PyTorch module, in evaluation mode, on the CPU.
        model: the exported file, which engines load.
    """

    source: str
    network: Self2SelfNet
    model: Model

    def to_json(self) -> dict[str, Any]:
        """Describe the network for the JSON document; no path is included."""
        network = self.network
        return {
            "source": self.source,
            "recipe": self.model.contract.recipe,
            "precision": self.model.contract.precision,
            "channels": network.channels,
            "encoder_width": network.encoder_width,
            "decoder_widths": list(network.decoder_widths),
            "parameters": sum(weight.numel() for weight in network.parameters()),
        }

    def gflop_per_pass(self, size: tuple[int, int]) -> float:
        """Operations of direct convolution in one pass over an image of `size` (height, width), in 10^9."""
        return convolution_gflop(self.network.layers, *size)


def random_model(recipe: Recipe, folder: Path, channels: int = 3) -> BenchmarkModel:
    """Export the network of `recipe` with random weights into `folder`.

    Raises:
        ResourceError, OutputError: the file cannot be written.
    """
    import torch

    from self2self.export import export_model
    from self2self.model.network import Self2SelfNet, initialise

    masks = recipe.masks(channels)
    network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, masks[-1].keep_probability).eval()
    initialise(network, recipe.scratch_scheme, torch.Generator().manual_seed(0))
    path = folder / "model.onnx"
    export_model(network, Contract(channels, masks, recipe=recipe.name), path)
    return BenchmarkModel("random weights", network, load_model(path))


def model_from_file(path: Path) -> BenchmarkModel:
    """Load the network that an `.onnx` file contains.

    Raises:
        InputError, FileFormatError: the file is missing, damaged, or was not written by self2self.
    """
    from self2self.runtime.engines.torch_cpu.reference import network_of

    model = load_model(path)
    return BenchmarkModel(path.name, network_of(model), model)
