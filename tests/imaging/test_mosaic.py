"""Mosaics of colour filters: told from other images, taken apart and put together again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from self2self.imaging.mosaic import arranged, is_mosaic, restored

PATTERNS = ("rggb", "bggr", "grbg", "gbrg")
ROWS, COLUMNS = np.mgrid[:192, :192]


def mosaic(pattern: str, sigma: float, colours: np.ndarray | None = None) -> np.ndarray:
    """What a sensor sees of a picture (linear light, black level, photon and read noise)."""
    linear = ((data.coffee()[60:252, 200:392] if colours is None else colours) / 255) ** 2.2
    plane = np.zeros(linear.shape[:2])
    for place, colour in enumerate(pattern):
        down, right = divmod(place, 2)
        plane[down::2, right::2] = linear[down::2, right::2, "rgb".index(colour)] * (0.5, 1.0, 0.6)["rgb".index(colour)]
    plane = 12000 * plane + 512
    return plane + sigma * np.random.default_rng(0).normal(0, 1, plane.shape) * np.sqrt(1600 + 20 * (plane - 512))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("sigma", [0, 1, 2])
def test_mosaics_are_recognised(pattern: str, sigma: float) -> None:
    assert is_mosaic(mosaic(pattern, sigma))
    assert is_mosaic(mosaic(pattern, sigma)[1:, 1:])


def others() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    camera = data.camera()[100:292, 100:292].astype(float)
    return {
        "photograph": camera,
        "noisy": camera + rng.normal(0, 25, camera.shape),
        "photons": rng.poisson(camera / 64),
        "slope": (ROWS + COLUMNS).astype(float),
        "slope with noise": ROWS + COLUMNS + rng.normal(0, 0.3, camera.shape),
        "fabric": data.brick()[:192, :192],
        "letters": data.page()[:, :192],
        "rows of two strengths": camera + 6 * (ROWS % 2),
        "columns of two strengths": camera + 6 * (COLUMNS % 2),
        "interlaced": np.where(ROWS % 2, camera, np.roll(camera, 5, 1)),
        "doubled": np.kron(camera[::2, ::2], np.ones((2, 2))),
        "halftone": np.where(camera / 255 > 0.5 + 0.5 * np.sin(ROWS * 1.2) * np.sin(COLUMNS * 1.2), 255, 0),
        "noise": rng.normal(0, 1, camera.shape),
        "constant": np.full((64, 64), 7),
        "one-pixel checkerboard": 255 * ((ROWS + COLUMNS) % 2),
        "picture behind a checkerboard": camera * ((ROWS + COLUMNS) % 2),
        "screen door": np.where((ROWS % 2 == 0) | (COLUMNS % 2 == 0), camera, 0),
        "small": rng.normal(0, 1, (12, 90)),
    }


@pytest.mark.parametrize("name", others())
def test_other_images_are_not(name: str) -> None:
    assert not is_mosaic(others()[name])


def threshold_matrix(side: int) -> np.ndarray:
    """The matrix of an ordered dither (Bayer 1973), thresholds in (0, 1)."""
    matrix = np.zeros((1, 1))
    while len(matrix) < side:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return (matrix + 0.5) / matrix.size


@pytest.mark.parametrize("picture", ["camera", "moon", "brick", "clock", "coins", "text"])
@pytest.mark.parametrize("side", [2, 4, 8])
@pytest.mark.parametrize("levels", [2, 3, 4, 8, 16, 32])
def test_ordered_dithers_are_not(picture: str, side: int, levels: int) -> None:
    image = getattr(data, picture)().astype(float)
    repeats = [length // side + 1 for length in image.shape]
    thresholds = np.tile(threshold_matrix(side), repeats)[: image.shape[0], : image.shape[1]]
    assert not is_mosaic(np.minimum(np.floor(image / 255 * (levels - 1) + thresholds), levels - 1))


@pytest.mark.parametrize("full", [1000, 12000])
@pytest.mark.parametrize("picture", ["astronaut", "coffee", "rocket", "chelsea", "immunohistochemistry"])
def test_mosaics_of_few_photons_are(picture: str, full: int) -> None:
    linear = (getattr(data, picture)() / 255) ** 2.2
    rows, columns = np.indices(linear.shape[:2])
    channel = np.array([[0, 1], [1, 2]])[rows % 2, columns % 2]
    light = np.take_along_axis(linear * (0.5, 1, 0.6), channel[..., None], 2)[..., 0]
    rng = np.random.default_rng(2)
    assert is_mosaic(np.rint(rng.poisson(full * light) + rng.normal(0, 1, light.shape)))


@given(height=st.integers(1, 20), width=st.integers(1, 20))
def test_every_pixel_comes_back(height: int, width: int) -> None:
    values = np.arange(height * width).reshape(height, width, 1)
    apart = arranged(values)
    assert np.array_equal(restored(apart), values)
    # The plane at the top left holds the pixels of one colour.
    rows, columns = (height + 1) // 2, (width + 1) // 2
    assert np.array_equal(apart[:rows, :columns], values[::2, ::2])
