"""From a fit in memory to the model that the product would run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from self2self.export import export_model
from self2self.model.contract import Contract
from self2self.model.network import Self2SelfNet
from self2self.runtime.model import Model, load_model
from self2self.train.fit import FitState
from self2self.train.recipes import Recipe


@contextmanager
def exported(state: FitState, recipe: Recipe) -> Iterator[Model]:
    """The exported model of a finished fit, for as long as the block runs."""
    channels = state.network.channels
    masks = recipe.pass_masks(channels)
    network = Self2SelfNet(channels, recipe.encoder_width, recipe.decoder_widths, masks[-1].keep_probability)
    network.load_state_dict(state.weights())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        contract = Contract(
            channels,
            masks,
            recipe=recipe.name,
            steps=state.step,
            noisy_share=recipe.noisy_share,
            even_noise=recipe.even_noise,
        )
        export_model(network.eval(), contract, path)
        yield load_model(path)
