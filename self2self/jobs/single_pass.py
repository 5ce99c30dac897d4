"""Decide whether an image needs real passes, or whether a single pass without dropout gives the same.

The network without masks is made once for each fit (`train.single_pass`) and kept in the run folder, unless making it
takes longer than it saves. For every image it is compared with real passes on crops; where it falls short, real passes
are run.
"""

from __future__ import annotations

import time
import weakref
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from self2self.errors import EngineUnavailableError, FileFormatError
from self2self.jobs.fitted_model import FittedModel
from self2self.jobs.observer import Observer
from self2self.jobs.single_pass_file import SinglePassInFile
from self2self.machine.files import scratch_folder
from self2self.model.contract import Contract
from self2self.runtime.engines.registry import NEEDS_GPU, get_engine, is_installed
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.pass_plan import is_published_recipe
from self2self.runtime.model import Model, load_model
from self2self.train.run_folder import Run

if TYPE_CHECKING:
    from self2self.train.single_pass import BothWeights

FloatArray = NDArray[np.float32]

WORTHWHILE_PIXELS = 2**19
"""Pixels of all images together from which a calibration takes less time than it saves. It computes as much as 50
passes over 200x200 pixels do, in an engine that is slower than that of the passes. The limit is a number of pixels and
not a measured time, because the same command has to give the same image every time."""


def allows_single_pass(contract: Contract, options: EnsembleOptions) -> bool:
    """Whether the user's options leave it open how a model makes its image.

    A number of passes, their masks or flips, an uncertainty and the recipes of the paper ask for real passes. So does a
    GPU, where they are fast.
    """
    is_open = not options.option_of_masks and options.flips is None and not options.uncertainty
    return is_open and not contract.plain and not is_published_recipe(contract.recipe) and _has_engine(options)


def _has_engine(options: EnsembleOptions) -> bool:
    """Whether the engine of `options` runs plain models, or ``auto`` means the CPU, where one does."""
    try:
        if options.engine != "auto":
            return get_engine(options.engine).runs_plain
        return get_engine("auto").name not in NEEDS_GPU and get_engine("auto", plain_pixels=0).runs_plain
    except EngineUnavailableError:
        return False


@dataclass(eq=False)
class SinglePass:
    """The single pass of a fit.

    Attributes:
        run: finished fit, whose folder keeps the calibrated weights and their plain model.
        model: the model with masks of the same fit.
        observer: gets notes.
        fitted_pixels: float32 (C, H, W), the fitted image; None where the single pass was made before.
        in_file: what the file of `model` holds of it; None for a run folder.
    """

    run: Run
    model: Model
    observer: Observer
    fitted_pixels: FloatArray | None = None
    in_file: SinglePassInFile | None = None

    @classmethod
    def of(cls, model: Model, observer: Observer) -> SinglePass | None:
        """The single pass of the run folder that `model` lies in, or else the one in its file; None without one.

        Raises:
            FileFormatError: that in the file is damaged.
        """
        if not is_installed("torch"):
            return None
        run = Run(model.path.parent)
        if model.path == run.onnx_path and run.plain_path.is_file():
            return cls(run, model, observer)
        in_file = SinglePassInFile.of_file(model.path)
        if in_file is None:
            return None
        stack = ExitStack()
        run = Run(stack.enter_context(scratch_folder()))
        single_pass = cls(run, model, observer, in_file=in_file)
        # Engines read the plain model as long as this object is in use.
        weakref.finalize(single_pass, stack.close)
        in_file.unpack(run)
        return single_pass

    def make(self) -> None:
        """Make and export what is missing of it in the run folder.

        Raises:
            Self2SelfError: as for `train.single_pass.make_single_pass` and `export.plain_job`.
        """
        _ = self._plain_model

    def model_for(self, pixels: FloatArray, name: str, *, seed: int = 0, crops: int | None = None) -> Model:
        """The plain model if it is as good as the passes on crops of an image, otherwise the model with masks.

        Args:
            pixels: float32 (C, H, W), the image.
            name: of the image, for the note that says why real passes are run.
            seed: of the crops and of the passes over them.
            crops: number of crops; None for the usual number.

        Raises:
            Self2SelfError: as for `train.single_pass.make_single_pass` and `export.plain_job`.
        """
        from self2self.train.single_pass import CHECKED_CROPS

        plain_model = self._plain_model
        check = self._weights.check(pixels, seed=seed, crops=CHECKED_CROPS if crops is None else crops)
        if check.passed:
            return plain_model
        self.observer.note(f"{name}: a single pass would be {check.text}; running real passes.")
        return self.model

    @cached_property
    def _weights(self) -> BothWeights:
        """The weights that are compared on every page, read once."""
        from self2self.train.single_pass import BothWeights

        return BothWeights.of(self.run) if self.in_file is None else self.in_file.with_masked(self.model, self.run)

    @cached_property
    def _plain_model(self) -> Model:
        """The plain model; what is missing of it is made and exported now."""
        from self2self.jobs.export import plain_job
        from self2self.train.single_pass import make_single_pass

        path = self.run.plain_onnx_path_for("fp32")
        try:
            if not self.run.plain_path.is_file() and self.fitted_pixels is not None:
                make_single_pass(self.run, self.fitted_pixels, self.observer.calibration_step)
            elif path.is_file():
                return load_model(path)
        except FileFormatError as error:
            self.observer.note(f"exporting again: {error}")
        plain_job(self.run, observer=self.observer, force=True)
        return load_model(path)


def with_cheapest_model(
    fitted: FittedModel,
    pixels: FloatArray,
    options: EnsembleOptions,
    observer: Observer,
    *,
    pages: int = 1,
) -> FittedModel:
    """Replace the model of `fitted` by the plain one, where that is sooner and as good, and the user leaves it open.

    Args:
        fitted: the fit and its model with masks.
        pixels: float32 (C, H, W), the fitted image.
        options: of the ensemble.
        observer: gets notes.
        pages: number of images of this size that the model is for.
    """
    start = time.perf_counter()
    single_pass = worthwhile_single_pass(fitted, pixels, options, observer, pages=pages)
    if single_pass is None:
        return fitted
    model = single_pass.model_for(pixels, str(fitted.fit.config.image), seed=options.seed)
    return replace(fitted, model=model, calibration_seconds=time.perf_counter() - start)


def worthwhile_single_pass(
    fitted: FittedModel, pixels: FloatArray, options: EnsembleOptions, observer: Observer, *, pages: int = 1
) -> SinglePass | None:
    """The single pass of `fitted`, if it is sooner, and the user leaves it open; arguments as `with_cheapest_model`."""
    run = fitted.fit.run
    if not allows_single_pass(fitted.model.contract, options) or not _is_worthwhile(run, pixels, pages):
        return None
    return SinglePass(run, fitted.model, observer, pixels)


def _is_worthwhile(run: Run, pixels: FloatArray, pages: int) -> bool:
    """Whether the single pass of `run` takes less time for `pages` images like `pixels` than passes do."""
    from self2self.train.session import shipped_start_weights

    _, height, width = pixels.shape
    return shipped_start_weights(run.config()) is not None or pages * height * width >= WORTHWHILE_PIXELS
