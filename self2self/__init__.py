"""Denoise one image without any other image.

Fit and denoise, as the command `self2self denoise` does::

    import self2self

    result = self2self.denoise_job("noisy.tif", options=self2self.EnsembleOptions(passes=50))
    print(result.output)

Denoise an array with a model that was exported before::

    model = self2self.load_model("runs/noisy-1a2b3c4d/model.onnx")
    image = self2self.read_image("noisy.tif", whole_range=model.contract.whole_range)
    ensemble = self2self.denoise_pixels(model, image.pixels, self2self.EnsembleOptions(passes=50))
    self2self.write_image("clean.tif", ensemble.image, like=image)

All errors that a user can cause are subclasses of `Self2SelfError`; `self2self.errors` defines them. Importing the
package does not load torch or other heavy libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # For type checkers and editors, which do not see the names that `__getattr__` provides.
    from self2self.errors import Self2SelfError as Self2SelfError
    from self2self.image_io import read_image as read_image
    from self2self.image_io import write_image as write_image
    from self2self.jobs import DenoiseResult as DenoiseResult
    from self2self.jobs import EarlierResult as EarlierResult
    from self2self.jobs import FitOptions as FitOptions
    from self2self.jobs import Observer as Observer
    from self2self.jobs import OutputOptions as OutputOptions
    from self2self.jobs import StackResult as StackResult
    from self2self.jobs import denoise_job as denoise_job
    from self2self.model.masks import MaskMaker as MaskMaker
    from self2self.runtime.ensemble.denoise import denoise_pixels as denoise_pixels
    from self2self.runtime.ensemble.options import EnsembleOptions as EnsembleOptions
    from self2self.runtime.ensemble.tile_loop import EnsembleResult as EnsembleResult
    from self2self.runtime.model import Model as Model
    from self2self.runtime.model import load_model as load_model

__version__ = "0.1.0"

_MODULE_OF_NAME = {
    "DenoiseResult": "self2self.jobs",
    "EnsembleOptions": "self2self.runtime.ensemble.options",
    "EnsembleResult": "self2self.runtime.ensemble.tile_loop",
    "FitOptions": "self2self.jobs",
    "MaskMaker": "self2self.model.masks",
    "Model": "self2self.runtime.model",
    "Observer": "self2self.jobs",
    "OutputOptions": "self2self.jobs",
    "Self2SelfError": "self2self.errors",
    "EarlierResult": "self2self.jobs",
    "StackResult": "self2self.jobs",
    "denoise_pixels": "self2self.runtime.ensemble.denoise",
    "denoise_job": "self2self.jobs",
    "load_model": "self2self.runtime.model",
    "read_image": "self2self.image_io",
    "write_image": "self2self.image_io",
}

__all__ = ["__version__", *_MODULE_OF_NAME]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is used (PEP 562)."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'self2self' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF_NAME[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion; they are not imported."""
    return sorted([*globals(), *_MODULE_OF_NAME])
