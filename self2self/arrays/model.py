"""`self2self.fit`, `self2self.load` and `Model`: a fitted network to keep, to pickle, and to use again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from numpy.typing import ArrayLike

from self2self.arrays.axes import Array, Layout, storable
from self2self.arrays.calls import Call, run_folder_for, with_given
from self2self.arrays.channels import NAME, apart, as_colours, groups_of
from self2self.arrays.progress import ShowProgress
from self2self.arrays.result import Denoised, denoised
from self2self.errors import InputError, UsageError
from self2self.image_io import stack_of_array
from self2self.jobs.fit_config import FitOptions, check_nodata
from self2self.jobs.in_memory import fit_in_memory, infer_in_memory
from self2self.jobs.single_pass_file import SinglePassInFile
from self2self.machine.arguments import file_path
from self2self.machine.files import atomic_write, scratch_folder
from self2self.model.contract import Contract, Nodata
from self2self.runtime import model as runtime_model
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.pass_plan import Passes
from self2self.train.run_folder import Run

COLOURS = {1: "grey", 3: "RGB", 4: "CMYK"}


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted network: the content of an ONNX file. It can be pickled, and needs no file.

    Attributes:
        content: the bytes of the file.
        contract: what the file says of itself: channels, recipe, masks, value range.
    """

    content: bytes = field(repr=False)
    contract: Contract = field(repr=False)

    @classmethod
    def _at(cls, path: Path) -> Model:
        """The model in the file `path`, with the single pass of the run folder that it lies in."""
        contract = runtime_model.load_model(path).contract
        run = Run(path.parent)
        if path.resolve() == run.onnx_path.resolve() and (single_pass := SinglePassInFile.of_run(run)):
            return cls(single_pass.added_to(runtime_model.read_proto(path)), contract)
        return cls(path.read_bytes(), contract)

    def predict(
        self,
        noisy: ArrayLike,
        *,
        axes: str | None = None,
        channel_axis: int | None = None,
        uncertainty: bool = False,
        seed: int | None = None,
        progress: ShowProgress = False,
        cancel: threading.Event | None = None,
        passes: Passes | None = None,
        engine: str | None = None,
        nodata: Nodata = None,
        pass_options: EnsembleOptions | None = None,
    ) -> Denoised:
        """Denoise an array with this network, without another fit: the next image of the scene or the experiment.

        Args:
            noisy: as for `denoise`, of any size.
            axes: as for `denoise`.
            channel_axis: as for `denoise`. A network for one channel takes each channel by itself; one for three takes
                three together.
            uncertainty: as for `denoise`.
            seed: of the masks. None for 0.
            progress: as for `denoise`.
            cancel: as for `denoise`.
            passes: as for `denoise`.
            engine: as for `denoise`.
            nodata: as for `denoise`; None for that of the fit.
            pass_options: as for `denoise`.

        Raises:
            InputError: the array cannot be used, or has other channels than the fitted one.
            Self2SelfError: anything else that a user can cause.
        """
        start = time.perf_counter()
        array, layout = Layout.of(noisy, axes, channel_axis)
        check_nodata(nodata)
        options = with_given(
            pass_options or EnsembleOptions(), seed=seed, passes=passes, engine=engine, uncertainty=uncertainty
        )
        options.check_uncertainty(uncertainty)
        if uncertainty and self.contract.plain:
            raise UsageError("uncertainty=True needs passes with masks, and this model is plain. Load that with masks.")
        call = Call(cancel, progress)
        with call.observed() as observer, self._opened() as model:
            groups = self._groups_of(layout.pages_of(storable(array)))
            results = []
            for number, group in enumerate(groups, 1):
                call.part_started(number, len(groups))
                stack = stack_of_array(
                    group,
                    NAME,
                    whole_range=self.contract.whole_range,
                    nodata=self.contract.nodata if nodata is None else nodata,
                    mosaic=self.contract.mosaic,
                )
                results.append(infer_in_memory(model, stack, options, observer))
        return denoised(results, layout, array, call.notes, time.perf_counter() - start)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ONNX file, which `load`, the command `self2self infer` and other programs read.

        The single pass goes along, in the metadata of the file, so what is loaded from it predicts the same in the
        same time. An existing file is replaced; the new one appears complete or not at all.

        Raises:
            UsageError: the name does not end in ``.onnx``, by which programs know what it is.
            OutputError, ResourceError: the file cannot be written.
        """
        file = file_path("path", path)
        if file.suffix.lower() != ".onnx":
            raise UsageError(f"{file}: expected a name that ends in .onnx, for example {file.with_suffix('.onnx')}.")
        atomic_write(file, self.content, "choose another path")

    def __repr__(self) -> str:
        contract = self.contract
        kind = COLOURS.get(contract.channels, f"{contract.channels} channels")
        return f"<Model {kind}, recipe {contract.recipe}, {contract.steps} steps>"

    def _groups_of(self, pages: Array) -> list[Array]:
        """The stacks, (pages, H, W, C) each, that the network takes of (pages, channels, H, W, samples).

        Raises:
            InputError: the network takes another number of channels.
        """
        wanted, channels, samples = self.contract.channels, pages.shape[1], pages.shape[4]
        if wanted == channels == 3 and samples == 1:
            return [as_colours(pages)]
        # The fourth sample of a colour is alpha.
        if wanted == min(samples, 3):
            return apart(pages)
        got = f"{channels} channels" if samples == 1 and channels > 1 else COLOURS.get(min(samples, 3), "")
        raise InputError(
            f"array: is {got}; the model was fitted to {COLOURS.get(wanted, f'{wanted} channels')}. Fit one to this "
            "array: self2self.denoise(array)"
        )

    @contextmanager
    def _opened(self) -> Iterator[runtime_model.Model]:
        """The model as engines take it: they read a file, and TensorRT keeps its engine beside that."""
        with scratch_folder() as folder:
            path = Run(folder).onnx_path
            path.write_bytes(self.content)
            yield runtime_model.load_model(path)


def fit(
    noisy: ArrayLike,
    *,
    axes: str | None = None,
    channel_axis: int | None = None,
    seed: int | None = None,
    progress: ShowProgress = False,
    cancel: threading.Event | None = None,
    sigma: float | None = None,
    strength: float | None = None,
    nodata: Nodata = None,
    run: str | os.PathLike[str] | None = None,
    fit_options: FitOptions | None = None,
) -> Model:
    """Fit a network to an array, for `Model.predict`; to denoise one array, `denoise` is enough.

    Of several pages, the first from which there is something to learn is fitted, or that of ``fit_options.page``.

    Args:
        noisy: as for `denoise`.
        axes: as for `denoise`.
        channel_axis: as for `denoise`. Channels that would be fitted apart need a call each.
        seed: of weights, masks and crops. None for 0.
        progress: as for `denoise`.
        cancel: as for `denoise`.
        sigma: as for `denoise`.
        strength: as for `denoise`.
        nodata: as for `denoise`.
        run: as for `denoise`.
        fit_options: as for `denoise`.

    Raises:
        Self2SelfError: anything that a user can cause, with one line that says what to do.
    """
    array, layout = Layout.of(noisy, axes, channel_axis)
    fitting = with_given(
        fit_options or FitOptions(), seed=seed, stored_sigma=sigma, strength=strength, nodata=nodata, run=run
    )
    with Call(cancel, progress).observed() as observer, run_folder_for(fitting.run) as folder:
        groups = groups_of(layout.pages_of(storable(array)), fitting)
        if len(groups) > 1:
            raise InputError(
                f"array: has {len(groups)} channels whose noise differs, and a model is for one of them. Fit to each: "
                f"self2self.fit(array.take(0, axis={layout.axes.index('C')}))"
            )
        stack = stack_of_array(groups[0], NAME, nodata=fitting.nodata, mosaic=fitting.mosaic)
        fitted = fit_in_memory(stack, replace(fitting, run=folder), observer)
        return Model._at(fitted.model.path)


def load(path: str | os.PathLike[str]) -> Model:
    """Load a model from an ONNX file of `Model.save`, of a run folder, or of `self2self export`.

    From a run folder, its single pass comes along, if it has one.

    Raises:
        InputError: the file is missing or cannot be read.
        FileFormatError: it is damaged, or not a model of self2self.
    """
    return Model._at(Path(path))
