"""Build networks and exported models from fits in memory, as the product builds them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from self2self.export import export_model
from self2self.model.contract import Contract
from self2self.model.network import Self2SelfNet
from self2self.runtime.model import Model, load_model
from self2self.train.fit import FitState
from self2self.train.recipes import Recipe

Weights = dict[str, torch.Tensor]


def network_with(weights: Weights, recipe: Recipe, channels: int) -> Self2SelfNet:
    """Return the network of `recipe` for images of `channels` with `weights`, in evaluation mode, on the CPU."""
    masks = recipe.pass_masks(channels)
    network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, masks[-1].keep_probability)
    network.load_state_dict(weights)
    return network.eval()


@contextmanager
def exported(state: FitState, recipe: Recipe) -> Iterator[Model]:
    """Export the model of a finished fit; its file exists until the block ends."""
    channels = state.network.channels
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        contract = Contract(
            channels,
            recipe.pass_masks(channels),
            recipe=recipe.name,
            steps=state.step,
            noisy_share=recipe.noisy_share,
            even_noise=recipe.even_noise,
        )
        export_model(network_with(state.weights(), recipe, channels), contract, path)
        yield load_model(path)
