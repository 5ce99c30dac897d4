"""Notes to the user about the noise of an image, and notes that came up while its file was read."""

from __future__ import annotations

from self2self.image_io import Image
from self2self.imaging.noise import BETTER_SOURCE, CORRELATED_NOTE, SHARED_NOTE, Residual
from self2self.jobs.observer import Observer
from self2self.jobs.prepared_image import PreparedImage
from self2self.train.recipes import FOR_CORRELATED, Recipe

TEXTURE_NOTE = (
    "neighbouring pixels share what could be noise (correlation {}), but most of it is fine texture; so {:.0f} % of "
    "what was taken for noise comes back in the result (--drop-rate {:g} keeps all of it out)."
)


def note_file(image: Image, observer: Observer) -> None:
    """Pass on the notes from reading the file of `image`."""
    for note in image.notes:
        observer.note(f"{image.path}: {note}")
    if image.unmeasured is not None:
        observer.note(f"{image.path}: {image.unmeasured.note}")


def note_noise(prepared: PreparedImage, recipe: Recipe, observer: Observer) -> None:
    """Warn if the noise of the image is correlated, and say what the fit does about it."""
    noise = prepared.measured_noise
    simulated = recipe.target == "simulated"
    # A recipe with a drop rate for passes was adapted: the trial found that the noise is not correlated after all.
    if not simulated and (recipe.pass_drop_rate is not None or not noise.correlated):
        return
    note = CORRELATED_NOTE
    if recipe.noisy_share:
        note = TEXTURE_NOTE.format("{:.2f}", 100 * recipe.noisy_share, FOR_CORRELATED.pass_drop_rate)
    elif simulated:
        action = "so the fit learns from noise simulated like it" if recipe.steps else "which the start weights know"
        note = f"{SHARED_NOTE}, {action}. {BETTER_SOURCE}"
    observer.note(f"{prepared.image.path}: {note.format(noise.correlation)}")


def note_residual(where: str, residual: Residual, observer: Observer) -> None:
    """Say that what was removed is correlated between neighbouring pixels.

    Args:
        where: beginning of the note, such as the path of the image.
        residual: statistics of what was removed.
        observer: gets the note.
    """
    observer.note(f"{where} {CORRELATED_NOTE.format(residual.noise.correlation)}")
