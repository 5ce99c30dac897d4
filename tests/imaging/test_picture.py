"""Pictures that people look at."""

import io

import numpy as np
import pytest
from PIL import Image

from self2self.imaging.picture import picture_of, png_of


def levels(pixels: np.ndarray) -> np.ndarray:
    with Image.open(io.BytesIO(png_of(picture_of(pixels)))) as file:
        return np.asarray(file)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_is_a_png_that_anyone_can_open(channels: int) -> None:
    shown = levels(np.full((channels, 8, 9), 0.2, np.float32))
    # CMYK inks of 20 % each, on paper: 255 * (1 - 0.2) * (1 - 0.2).
    expected = 51 if channels < 4 else 163
    assert shown.shape == ((8, 9) if channels == 1 else (8, 9, 3))
    assert np.abs(shown.astype(int) - expected).max() <= 1


def test_a_star_is_white() -> None:
    pixels = np.full((1, 8, 9), 0.5, np.float32)
    pixels[0, 2, 3], pixels[0, 4, 4] = 20.3, -3.7
    shown = levels(pixels)
    assert (shown[2, 3], shown[4, 4]) == (255, 0)
