"""Denoise one image with nothing but that image.

The public API in one list; importing the package loads nothing heavy::

    import self2self

    image = self2self.read_image("noisy.tif")
    finished = self2self.denoise_job(Path("noisy.tif"), self2self.FitOptions(), self2self.InferOptions())
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Contract": "self2self.contract",
    "Denoised": "self2self.runtime.tile_job",
    "Engine": "self2self.runtime.engine",
    "FitOptions": "self2self.jobs",
    "FitState": "self2self.train.fit",
    "Image": "self2self.image_io",
    "InferOptions": "self2self.jobs",
    "MaskMaker": "self2self.masks",
    "MaskSpec": "self2self.contract",
    "Model": "self2self.runtime.model",
    "Observer": "self2self.jobs",
    "Recipe": "self2self.train.recipes",
    "Self2SelfError": "self2self.errors",
    "Self2SelfNet": "self2self.train.network",
    "denoise": "self2self.runtime.denoise",
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
