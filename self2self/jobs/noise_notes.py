"""Notes to the user about the noise of an image, and notes that came up while its file was read."""

from __future__ import annotations

from pathlib import Path

from self2self.errors import typed
from self2self.image_io import Image
from self2self.imaging.noise import BETTER_SOURCE, CORRELATED_NOTE, SHARED_NOTE, Noise, NoiseKind, Residual
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.observer import Observer
from self2self.jobs.prepared_image import PreparedImage
from self2self.train.run_folder import RunConfig

IMPULSES_NOTE = "has impulses, single values that are wrong; they are replaced by the median of their neighbours first."
LITTLE_REMOVED = 0.5
"""Largest removed share with which the user is told that most of the difference stays."""

FOUND_NOISE = 3.0
"""Weakest noise, in 8-bit grey levels, of which a user expects that it goes."""
HARDLY_REMOVED = 0.4
"""Share of the noise that was found; if less was removed, the user is told."""


def note_file(image: Image, observer: Observer, *, of_stack: bool = False) -> None:
    """Pass on the notes from reading the file of `image`; `of_stack` if it is a page of several."""
    # What is said of an empty page, or of pixels that hold no measurement, is not true of the other pages.
    page = f"a page of {image.path}" if of_stack else f"{image.path}"
    for note in image.notes:
        observer.note(f"{page if image.is_empty else image.path}: {note}")
    if image.unmeasured is not None:
        observer.note(f"{page}: {image.unmeasured.note}")


def note_options_of_pages(path: Path, fitting: FitOptions, observer: Observer) -> None:
    """Say that an option about the pages of a stack changes nothing for an image, which has one."""
    options = {
        typed("--fit-pages", fitting.fit_pages): fitting.fit_pages != "first",
        typed("--neighbours", fitting.neighbours): fitting.neighbours not in ("auto", 0),
    }
    for option in (option for option, is_given in options.items() if is_given):
        observer.note(f"{path}: has one page, so {option} changes nothing.")


def note_noise(prepared: PreparedImage, config: RunConfig, observer: Observer) -> None:
    """Say what kind of noise the image has, unless each value has its own, and what the fit does about it."""
    for note in _notes(prepared, config):
        observer.note(f"{prepared.image.path}: {note}")


def _notes(prepared: PreparedImage, config: RunConfig) -> list[str]:
    noise = config.noise
    if prepared.image.is_empty:
        return []
    if noise is None:
        measured = prepared.measured_noise
        note = CORRELATED_NOTE.format(measured.correlation) + better_source(prepared.image)
        return [note] if measured.correlated else []
    return [IMPULSES_NOTE] * noise.impulses + _notes_of_kind(prepared, config, noise)


def _notes_of_kind(prepared: PreparedImage, config: RunConfig, noise: Noise) -> list[str]:
    if noise.removed_share < LITTLE_REMOVED:
        return [
            f"most of what could be noise is fine texture, so {100 * (1 - noise.removed_share):.0f} % of it stays in "
            f"the result ({typed('--sigma S')} removes noise of S grey levels all the same)."
        ]
    action = "so the fit learns from noise simulated like it" if config.recipe.steps else "which the start weights know"
    return {
        NoiseKind.INDEPENDENT: [],
        NoiseKind.IMPULSES: [],
        NoiseKind.SHARED: [f"the colour channels share their noise, {action}."],
        NoiseKind.CORRELATED: [f"{SHARED_NOTE.format(noise.correlation)}, {action}.{better_source(prepared.image)}"],
    }[noise.kind]


def better_source(image: Image) -> str:
    """The sentence, after a space, that proposes a better file than that of `image`; empty if there is none."""
    return "" if image.is_raw else f" {BETTER_SOURCE}"


def note_residual(where: str, image: Image, residual: Residual, observer: Observer) -> None:
    """Say that what was removed is correlated between neighbouring pixels.

    Args:
        where: beginning of the note, such as the path of the image.
        image: the noisy image.
        residual: statistics of what was removed.
        observer: gets the note.
    """
    note = CORRELATED_NOTE.format(residual.noise.correlation) + better_source(image)
    observer.note(f"{where} {note}")


def note_little_removed(path: Path, config: RunConfig, removed: float, observer: Observer) -> None:
    """Say so if hardly any of the noise that was found is gone, although the user did not ask for that.

    Args:
        path: of the noisy image.
        config: of the fit; `RunConfig.noise` is what was found.
        removed: standard deviation of what was removed, in 8-bit grey levels.
        observer: gets the note.
    """
    noise = config.noise
    if noise is None:
        return
    expected = noise.sigma * min(1.0, config.strength) * noise.removed_share
    if expected >= FOUND_NOISE and removed < HARDLY_REMOVED * expected:
        observer.note(
            f"{path}: noise of about {noise.sigma:.0f} grey levels was found, but only {removed:.1f} were removed. "
            f"Try {typed('--strength 1.5')}, or {typed('--sigma', f'{noise.sigma:.0f}')} if you are sure of the "
            "noise, or a longer fit: "
            f"{typed('--steps', max(300, 2 * config.recipe.steps))}."
        )
