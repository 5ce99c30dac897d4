"""Notes about noise, for what the user can do about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from self2self.image_io import read_image
from self2self.imaging.noise import Noise, NoiseKind, measure_residual
from self2self.jobs import Observer
from self2self.jobs.noise_notes import note_little_removed, note_residual
from tests.image_files import noise as noise_of
from tests.image_files import save
from tests.train.test_run_folder import config_of


def test_a_better_file_is_proposed_unless_the_image_is_raw(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "x.png", noise_of((64, 64))))
    residual = measure_residual(image.pixels, np.zeros_like(image.pixels))
    told: list[str] = []
    for source in (image, replace(image, format="raw"), replace(image, mosaic=True)):
        note_residual("x.png:", source, residual, Observer(note=told.append))
    assert ["raw file" in note for note in told] == [True, False, False]
    assert all(note.endswith(".") for note in told)


@pytest.mark.parametrize(
    ("sigma", "share", "strength", "removed", "told"),
    [
        (25.0, 1.0, 1.0, 24.0, False),
        (25.0, 1.0, 1.0, 4.0, True),
        # The user asked for it.
        (25.0, 1.0, 0.1, 2.4, False),
        (25.0, 1.0, 0.0, 0.0, False),
        (25.0, 1.0, 2.0, 30.0, False),
        # Texture stays where noise is weak, which has a note of its own.
        (6.0, 0.2, 1.0, 1.0, False),
        (1.0, 1.0, 1.0, 0.1, False),
    ],
)
def test_who_sees_hardly_anything_removed_learns_what_to_try(
    sigma: float, share: float, strength: float, removed: float, told: bool
) -> None:
    noise = Noise(
        sigma=sigma, told=sigma, independent=sigma, correlation=0.0, kind=NoiseKind.INDEPENDENT, removed_share=share
    )
    notes: list[str] = []
    config = config_of(noise=noise, strength=strength)
    note_little_removed(Path("x.png"), config, removed, Observer(note=notes.append))
    assert bool(notes) == told
    assert all("x.png: noise of about 25" in note and "--strength 1.5" in note for note in notes)


def test_the_level_that_is_told_for_correlated_noise_is_not_taken_for_what_was_found() -> None:
    noise = Noise(sigma=1.0, told=8.0, independent=0.0, correlation=0.5, kind=NoiseKind.CORRELATED)
    notes: list[str] = []
    note_little_removed(Path("x.png"), config_of(noise=noise), 0.8, Observer(note=notes.append))
    assert not notes
