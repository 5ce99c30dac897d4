"""Denoise an image without any clean or second noisy image.

An array, which may be a photograph or a stack, of any type and in any units::

    import self2self

    result = self2self.denoise(noisy)          # noisy: NumPy array, or what numpy.asarray takes
    result.image                               # denoised: same shape, dtype and units
    result = self2self.denoise(stack, axes="TZYX", uncertainty=True, progress=True)

A network that is fitted once and used for many images::

    model = self2self.fit(noisy)
    clean = model.predict(other).image
    model.save("m.onnx")
    self2self.load("m.onnx").predict(another)

From file to file, as the command `self2self denoise`, with all metadata::

    result = self2self.denoise_job("noisy.tif")
    print(result.output)

Any PyTorch model with live dropout (docs/live-dropout.md)::

    self2self.export_live(network, example_inputs, "net.onnx", kind="logits")
    print(self2self.load_live("net.onnx").predict(inputs).mutual_information)

All errors that a user can cause are subclasses of `Self2SelfError`; `self2self.errors` defines them. Importing the
package does not load torch or other heavy libraries. It sets GOMP_SPINCOUNT, unless it or OMP_WAIT_POLICY is set, so
that PyTorch's threads, if PyTorch is loaded later, do not spin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from self2self.machine.system import limit_spin_wait
from self2self.version import VERSION

if TYPE_CHECKING:
    # For type checkers and editors, which do not see the names that `__getattr__` provides.
    from self2self.arrays.denoise import denoise as denoise
    from self2self.arrays.model import Model as Model
    from self2self.arrays.model import fit as fit
    from self2self.arrays.model import load as load
    from self2self.arrays.progress import Progress as Progress
    from self2self.arrays.result import Denoised as Denoised
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
    from self2self.live.export import LiveExport as LiveExport
    from self2self.live.export import export_live as export_live
    from self2self.live.export import export_live_onnx as export_live_onnx
    from self2self.live.model import LiveModel as LiveModel
    from self2self.live.model import LivePrediction as LivePrediction
    from self2self.live.model import load_live as load_live
    from self2self.model.masks import MaskMaker as MaskMaker
    from self2self.runtime.ensemble.denoise import denoise_pixels as denoise_pixels
    from self2self.runtime.ensemble.options import EnsembleOptions as EnsembleOptions
    from self2self.runtime.ensemble.tile_loop import EnsembleResult as EnsembleResult
    from self2self.runtime.model import load_model as load_model

__version__ = VERSION

_MODULE_OF_NAME = {
    "denoise": "self2self.arrays.denoise",
    "Denoised": "self2self.arrays.result",
    "fit": "self2self.arrays.model",
    "load": "self2self.arrays.model",
    "Model": "self2self.arrays.model",
    "Progress": "self2self.arrays.progress",
    "denoise_job": "self2self.jobs",
    "FitOptions": "self2self.jobs",
    "EnsembleOptions": "self2self.runtime.ensemble.options",
    "OutputOptions": "self2self.jobs",
    "Observer": "self2self.jobs",
    "DenoiseResult": "self2self.jobs",
    "StackResult": "self2self.jobs",
    "EarlierResult": "self2self.jobs",
    "Self2SelfError": "self2self.errors",
    "read_image": "self2self.image_io",
    "write_image": "self2self.image_io",
    "load_model": "self2self.runtime.model",
    "denoise_pixels": "self2self.runtime.ensemble.denoise",
    "EnsembleResult": "self2self.runtime.ensemble.tile_loop",
    "MaskMaker": "self2self.model.masks",
    "export_live": "self2self.live.export",
    "export_live_onnx": "self2self.live.export",
    "LiveExport": "self2self.live.export",
    "load_live": "self2self.live.model",
    "LiveModel": "self2self.live.model",
    "LivePrediction": "self2self.live.model",
}
"""The public names, those that people want first at the top, and where they are."""

__all__ = [*_MODULE_OF_NAME, "__version__"]

limit_spin_wait()


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is used (PEP 562)."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'self2self' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF_NAME[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion; they are not imported."""
    return sorted([*globals(), *_MODULE_OF_NAME])
