"""Whom a job tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from self2self.image_io import Image
from self2self.imaging.noise import BETTER_SOURCE, CORRELATED_NOTE, SHARED_NOTE, Noise, center_crop, measure_noise
from self2self.train.recipes import FOR_CORRELATED, Recipe

if TYPE_CHECKING:
    from self2self.runtime.ensemble.moments import Moments
    from self2self.train.session import FitReport


def _ignore(*_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Observer:
    """Whom a job tells how far it is.

    Attributes:
        note: something the user should know, one line.
        fitted: after every training step.
        passed: after every run of the engine, with the passes to come.
        measured: before every step of a benchmark: what comes, steps done, steps in all.
        imaged: before every image of several: its path, its number, from 1, and all images.
        paged: before every page of a stack: its number, from 1, and all pages.
        built: while TensorRT builds an engine: the phase, its steps done and all its steps; from any thread.
    """

    note: Callable[[str], None] = _ignore
    fitted: Callable[[FitReport], None] = _ignore
    passed: Callable[[Moments, int], None] = _ignore
    measured: Callable[[str, int, int], None] = _ignore
    imaged: Callable[[Path, int, int], None] = _ignore
    paged: Callable[[int, int], None] = _ignore
    built: Callable[[str, int, int], None] = _ignore


def tell_notes(image: Image, observer: Observer) -> None:
    """Pass on what reading the image had to say."""
    for note in image.notes:
        observer.note(f"{image.path}: {note}")


def noise_of(image: Image) -> Noise:
    """The noise of the image, measured in its middle."""
    return measure_noise(center_crop(image.pixels))


TEXTURE_NOTE = (
    "neighbouring pixels share what could be noise (correlation {}), but most of it is fine texture; so {:.0f} % of "
    "what was taken for noise comes back in the result (--drop-rate {:g} keeps all of it out)."
)


def tell_noise(image: Image, noise: Noise, recipe: Recipe, observer: Observer) -> None:
    """Warn if the noise of the image is correlated, and say what the fit does about it."""
    simulated = recipe.target == "simulated"
    # A recipe that chooses by the image has found that it is none of that kind, whatever was measured.
    if not simulated and (recipe.pass_drop_rate is not None or not noise.correlated):
        return
    note = CORRELATED_NOTE
    if recipe.noisy_share:
        note = TEXTURE_NOTE.format("{:.2f}", 100 * recipe.noisy_share, FOR_CORRELATED.pass_drop_rate)
    elif simulated:
        does = "so the fit learns from noise simulated like it" if recipe.steps else "which the start weights know"
        note = f"{SHARED_NOTE}, {does}. {BETTER_SOURCE}"
    observer.note(f"{image.path}: {note.format(noise.correlation)}")
