"""Denoise a part of a layer, in whatever thread this is called, and make the layers of the result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import InputError, InterruptedRun, Self2SelfError, as_controls, speaking
from self2self.napari_plugin.selection import LayerPart
from self2self.napari_plugin.settings import Settings

if TYPE_CHECKING:
    from self2self.arrays.progress import Progress
    from self2self.arrays.result import Denoised
    from self2self.jobs.fit_config import FitOptions

LayerTuple = tuple[NDArray[Any], dict[str, Any], str]
"""Data, attributes and kind of a layer, as napari's plugins give them."""

UNCERTAINTY_COLORMAP = "inferno"
UNCERTAINTY_PERCENTILE = 99.5
"""The uncertainty of this share of the pixels is within the contrast limits; edges have much more than the rest."""
METADATA = "self2self"
"""Key of what the result's metadata say of the run."""

CONTROLS = {"--passes": "Passes", "--seed": "Seed", "--strength": "Strength"}
"""Labels of the controls that stand for options with the same values."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to do.

    Attributes:
        part: of a layer.
        settings: how.
        sigma: standard deviation of the noise, in the units of the layer; None to find it.
        preview: whether the result is a preview.
    """

    part: LayerPart
    settings: Settings
    sigma: float | None = None
    preview: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task has ended.

    Attributes:
        layers: the result; that to be shown on top is the last. None if there is no result.
        message: one line for the user.
        notes: further lines.
        failed: whether the message is an error.
    """

    layers: tuple[LayerTuple, ...] = ()
    message: str = ""
    notes: tuple[str, ...] = ()
    failed: bool = False


def perform(task: Task, progress: Callable[[Progress], None], cancel: threading.Event) -> Outcome:
    """Do the task; what a user can cause is an outcome, too, and only a bug is an exception.

    Args:
        task: what is to do.
        progress: is called with the progress, in this thread.
        cancel: ends the task after the current step.
    """
    try:
        with speaking(as_controls(CONTROLS)):
            denoised = _denoised(task, progress, cancel)
    except InterruptedRun:
        return Outcome(message="cancelled")
    except Self2SelfError as error:
        message = str(error)
        if message.startswith("array:"):
            message = task.part.name + message.removeprefix("array")
        return Outcome(message=message, failed=True)
    except MemoryError:
        message = f"{task.part.name}: memory ran out. Denoise fewer planes, or a part of the image."
        return Outcome(message=message, failed=True)
    return Outcome(_layers_of(task, denoised), denoised.summary, denoised.notes)


def fit_options(settings: Settings) -> FitOptions:
    """The options of the fit that no argument of `self2self.denoise` stands for."""
    from self2self.jobs.fit_config import FitOptions

    fit_pages = "each" if settings.scope == "each" else "first"
    return FitOptions(init="scratch" if settings.scratch else None, fit_pages=fit_pages)


def _denoised(task: Task, progress: Callable[[Progress], None], cancel: threading.Event) -> Denoised:
    """The result, whose arrays have the axes of the part."""
    from self2self.arrays.denoise import denoise

    if cancel.is_set():
        raise InterruptedRun("cancelled before it began.")
    part, settings = task.part, task.settings
    values = _read(part)
    image_axes = [part.rows, part.columns, *([values.ndim - 1] if part.rgb else [])]
    channels = [] if part.channel is None else [part.channel]
    pages = [axis for axis in range(values.ndim) if axis not in (*channels, *image_axes)]
    order = [*pages, *channels, *image_axes]
    moved = values.transpose(order)
    letters = "T" + "C" * len(channels) + "YXS"[: len(image_axes)]
    result = denoise(
        moved.reshape(-1, *moved.shape[len(pages) :]),
        axes=letters,
        uncertainty=settings.uncertainty,
        seed=settings.seed,
        sigma=task.sigma,
        strength=settings.strength,
        passes=settings.passes or None,
        progress=progress,
        cancel=cancel,
        fit_options=fit_options(settings),
    )

    def of_part(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.reshape(moved.shape).transpose(np.argsort(order)))

    uncertainty = None if result.uncertainty is None else of_part(result.uncertainty)
    return replace(result, image=of_part(result.image), uncertainty=uncertainty, noisy=values)


def _read(part: LayerPart) -> NDArray[Any]:
    """The values of the part.

    Raises:
        InputError: they cannot be read.
    """
    try:
        return np.asarray(part.data[part.region])
    except MemoryError:
        raise
    except Exception as error:
        # Layers read files when they are asked: of any format, by any library.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{part.name}: could not be read ({reason}).") from error


def _layers_of(task: Task, denoised: Denoised) -> tuple[LayerTuple, ...]:
    part = task.part
    kind = "preview" if task.preview else "denoised"
    about = {"sigma": denoised.sigma, "seconds": denoised.seconds, "settings": asdict(task.settings)}
    metadata = {**part.metadata, METADATA: about}
    image = (denoised.image, {**part.attributes, "name": f"{part.name} {kind}", "metadata": metadata}, "image")
    if denoised.uncertainty is None:
        return (image,)
    return _uncertainty_layer(part, denoised.uncertainty, f"{part.name} {kind}: uncertainty", metadata), image


def _uncertainty_layer(
    part: LayerPart, uncertainty: NDArray[np.float32], name: str, metadata: dict[str, Any]
) -> LayerTuple:
    """The uncertainty, hidden at first, since it would hide the image; of colours, their root mean square."""
    if part.rgb:
        uncertainty = np.sqrt(np.mean(np.square(uncertainty[..., :3]), axis=-1))
    limit = float(np.percentile(uncertainty, UNCERTAINTY_PERCENTILE)) or float(uncertainty.max()) or 1.0
    attributes = {
        **part.placement,
        "name": name,
        "metadata": metadata,
        "colormap": UNCERTAINTY_COLORMAP,
        "contrast_limits": (0.0, limit),
        "visible": False,
    }
    return uncertainty, attributes, "image"
