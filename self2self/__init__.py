"""Denoise one image with nothing but that image.

The public API in one list; importing the package loads nothing heavy. What the command does::

    import self2self

    finished = self2self.denoise_job("noisy.tif", self2self.FitOptions(), self2self.EnsembleOptions(passes=50))
    print(finished.output)

Passes of a model that was exported before, from array to array::

    model = self2self.load_model("runs/noisy-1a2b3c4d/model.onnx")
    image = self2self.read_image("noisy.tif", whole_range=model.contract.whole_range)
    denoised = self2self.denoise(model, image.pixels, passes=50)
    self2self.write_image("clean.tif", denoised.image, like=image)

Errors that a user can cause are `Self2SelfError`s; `self2self.errors` has the tree.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # For type checkers and editors, which do not see what `__getattr__` gives.
    from self2self.errors import Self2SelfError as Self2SelfError
    from self2self.export import export_model as export_model
    from self2self.image_io import Image as Image
    from self2self.image_io import read_image as read_image
    from self2self.image_io import write_image as write_image
    from self2self.jobs import DenoiseResult as DenoiseResult
    from self2self.jobs import EnsembleOptions as EnsembleOptions
    from self2self.jobs import FitOptions as FitOptions
    from self2self.jobs import Observer as Observer
    from self2self.jobs import StackResult as StackResult
    from self2self.jobs import denoise_job as denoise_job
    from self2self.model.contract import Contract as Contract
    from self2self.model.contract import MaskSpec as MaskSpec
    from self2self.model.masks import Draws as Draws
    from self2self.model.masks import MaskMaker as MaskMaker
    from self2self.model.network import Self2SelfNet as Self2SelfNet
    from self2self.runtime.engines.engine import Engine as Engine
    from self2self.runtime.ensemble.denoise import denoise as denoise
    from self2self.runtime.ensemble.tile_loop import EnsembleResult as EnsembleResult
    from self2self.runtime.model import Model as Model
    from self2self.runtime.model import load_model as load_model
    from self2self.train.fit import FitState as FitState
    from self2self.train.fit import fit as fit
    from self2self.train.fit import new_state as new_state
    from self2self.train.recipes import Recipe as Recipe
    from self2self.train.recipes import recipe_for as recipe_for

__version__ = "0.1.0"

_HOMES = {
    "Contract": "self2self.model.contract",
    "EnsembleResult": "self2self.runtime.ensemble.tile_loop",
    "Draws": "self2self.model.masks",
    "Engine": "self2self.runtime.engines.engine",
    "DenoiseResult": "self2self.jobs",
    "StackResult": "self2self.jobs",
    "FitOptions": "self2self.jobs",
    "FitState": "self2self.train.fit",
    "Image": "self2self.image_io",
    "EnsembleOptions": "self2self.jobs",
    "MaskMaker": "self2self.model.masks",
    "MaskSpec": "self2self.model.contract",
    "Model": "self2self.runtime.model",
    "Observer": "self2self.jobs",
    "Recipe": "self2self.train.recipes",
    "Self2SelfError": "self2self.errors",
    "Self2SelfNet": "self2self.model.network",
    "denoise": "self2self.runtime.ensemble.denoise",
    "denoise_job": "self2self.jobs",
    "export_model": "self2self.export",
    "fit": "self2self.train.fit",
    "load_model": "self2self.runtime.model",
    "new_state": "self2self.train.fit",
    "read_image": "self2self.image_io",
    "recipe_for": "self2self.train.recipes",
    "write_image": "self2self.image_io",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public name from its home when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'self2self' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion, without loading them."""
    return sorted([*globals(), *_HOMES])
