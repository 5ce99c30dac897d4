"""`self2self.denoise`: from a noisy array to a denoised one."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

from numpy.typing import ArrayLike

from self2self.arrays.axes import Layout, storable
from self2self.arrays.calls import Call, run_folder_for, with_given
from self2self.arrays.channels import NAME, groups_of
from self2self.arrays.progress import ShowProgress
from self2self.arrays.result import Denoised, denoised
from self2self.image_io import stack_of_array
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.in_memory import denoise_in_memory
from self2self.model.contract import Nodata
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.pass_plan import Passes


def denoise(
    noisy: ArrayLike,
    *,
    axes: str | None = None,
    channel_axis: int | None = None,
    uncertainty: bool = False,
    seed: int | None = None,
    progress: ShowProgress = False,
    cancel: threading.Event | None = None,
    neighbours: str | int | None = None,
    sigma: float | None = None,
    strength: float | None = None,
    passes: Passes | None = None,
    engine: str | None = None,
    nodata: Nodata = None,
    run: str | os.PathLike[str] | None = None,
    fit_options: FitOptions | None = None,
    pass_options: EnsembleOptions | None = None,
) -> Denoised:
    """Denoise an array: a photograph, a stack of pages, or a microscope's channels.

    A network is fitted to the array, and predicts the result, as the command `self2self denoise` does.
    Nothing is written unless `run` is given::

        result = self2self.denoise(noisy)
        result.image                       # shape, dtype and units of `noisy`

    Args:
        noisy: array of integers (of 64 bits, if their values fit into 32) or 16 to 64-bit floats in any units: NumPy,
            xarray, dask, zarr, a torch tensor, or what `numpy.asarray` takes. NaN, `nodata` and what a masked array
            masks count for nothing and stay as they are. It is not changed.
        axes: a letter for each axis, as in ImageJ and OME: T time, Z depth, C channel, S sample of a colour (RGB or
            RGBA), Y row, X column; for example ``"TZYX"``. None takes the names of an xarray's dimensions, or guesses
            from the shape: YX; a last axis of 1, 3 or 4 is S; axes before rows and columns are pages (T, Z).
        channel_axis: number of the axis C, in place of `axes`. Three channels are denoised together, as colours, where
            their noise is about the same (within a factor of two). Other channels are fitted apart, as they differ.
        uncertainty: whether to return the standard deviation over the passes, too.
        seed: of weights, masks and crops; the same seed gives the same bits. None for 0.
        progress: whether to show progress bars (tqdm), also in notebooks; or a function that is called with a
            `Progress` after every step.
        cancel: event that another thread may set, to end the call with an `InterruptedRun` after the current step.
        neighbours: number of neighbours on each side that every page is fused with where they show the same (time T,
            depth Z): 0, 1 or 2. None for ``"auto"``: as many as fit.
        sigma: standard deviation of the noise, in the units of `noisy`; None to find it.
        strength: factor of the denoising, from 0 to 2. None for 1.
        passes: number of predictions that are averaged, or ``"auto"``; None for a single pass where that is as good.
        engine: name of the engine, as `self2self engines` lists them. None for ``"auto"``.
        nodata: value of pixels that hold no measurement; ``"none"`` if no value stands for them; None if the values
            tell.
        run: folder that keeps the fit. The same call with the same folder goes on where it was stopped, and uses a
            finished fit again. Channels that are fitted apart have a folder each in it. None keeps nothing.
        fit_options: further options of the fit; the arguments above replace theirs.
        pass_options: further options of the passes; the arguments above replace theirs.

    Raises:
        Self2SelfError: anything that a user can cause, with one line that says what to do.
    """
    start = time.perf_counter()
    array, layout = Layout.of(noisy, axes, channel_axis)
    fitting = with_given(
        fit_options or FitOptions(),
        seed=seed,
        neighbours=neighbours,
        stored_sigma=sigma,
        strength=strength,
        nodata=nodata,
        run=run,
    )
    options = with_given(
        pass_options or EnsembleOptions(), seed=seed, passes=passes, engine=engine, uncertainty=uncertainty
    )
    options.check_uncertainty(uncertainty)
    pages = layout.pages_of(storable(array))
    call = Call(cancel, progress)
    with call.observed() as observer, run_folder_for(fitting.run) as folder:
        groups = groups_of(pages, fitting)
        results = []
        for number, group in enumerate(groups, 1):
            call.part_started(number, len(groups))
            stack = stack_of_array(group, NAME, nodata=fitting.nodata, mosaic=fitting.mosaic)
            own_folder = folder if len(groups) == 1 else folder / f"channel-{number}"
            results.append(denoise_in_memory(stack, replace(fitting, run=own_folder), options, observer))
    return denoised(results, layout, array, call.notes, time.perf_counter() - start)
