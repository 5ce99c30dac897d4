"""Notes about noise, for what the user can do about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from self2self.image_io import read_image
from self2self.imaging.noise import measure_residual
from self2self.jobs import Observer
from self2self.jobs.noise_notes import note_residual
from tests.image_files import noise, save


def test_a_better_file_is_proposed_unless_the_image_is_raw(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "x.png", noise((64, 64))))
    residual = measure_residual(image.pixels, np.zeros_like(image.pixels))
    told: list[str] = []
    for source in (image, replace(image, format="raw"), replace(image, mosaic=True)):
        note_residual("x.png:", source, residual, Observer(note=told.append))
    assert ["raw file" in note for note in told] == [True, False, False]
    assert all(note.endswith(".") for note in told)
