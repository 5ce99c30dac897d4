"""Reading the clean reference and the image of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from self2self.errors import InputError
from self2self.image_io import image_hash, read_image
from self2self.jobs.fit import read_fitted_image, read_reference
from tests.train.test_run_folder import config_of


def written(path: Path, samples: np.ndarray) -> Path:
    tifffile.imwrite(path, samples, photometric="minisblack")
    return path


COUNTS = np.random.default_rng(0).integers(100, 3000, (40, 50))
SHARES = np.random.default_rng(1).integers(0, 256, (40, 50))


@pytest.mark.parametrize(
    ("noisy", "clean", "expected"),
    [
        # The same units in any type: counts of 12 bits, and the mean of many such frames.
        (COUNTS.astype(np.uint16), (COUNTS + 7).astype(np.uint16), COUNTS + 7),
        (COUNTS.astype(np.uint16), (COUNTS + 0.25).astype(np.float32), COUNTS + 0.25),
        (COUNTS.astype(np.float32), (COUNTS + 7).astype(np.uint16), COUNTS + 7),
        # Each image uses the whole range of its own type.
        ((SHARES * 257).astype(np.uint16), SHARES.astype(np.uint8), SHARES * 257),
        ((SHARES / 255).astype(np.float32), SHARES.astype(np.uint8), SHARES / 255),
        ((SHARES // 9).astype(np.uint8), (SHARES // 9 / 255).astype(np.float32), SHARES // 9),
        # 8-bit images always use the whole range, even if they are dark.
        ((SHARES // 9).astype(np.uint8), (SHARES * 100).astype(np.uint16), SHARES * 100 / 257),
    ],
)
def test_a_reference_is_in_the_units_of_the_image(
    tmp_path: Path, noisy: np.ndarray, clean: np.ndarray, expected: np.ndarray
) -> None:
    image = read_image(written(tmp_path / "noisy.tif", noisy))
    reference = read_reference(written(tmp_path / "clean.tif", clean), image)
    np.testing.assert_allclose(reference[0] * image.scale + image.offset, expected, rtol=1e-5)


def test_the_image_of_a_run_is_its_page_in_the_value_range_of_the_run(tmp_path: Path) -> None:
    pages = np.stack([SHARES // 9, SHARES, SHARES // 5]).astype(np.uint8)
    path = written(tmp_path / "stack.tif", pages)
    (alone,) = pages[2:]
    digest = image_hash(read_image(written(tmp_path / "page.tif", alone)))
    config = config_of(image=str(path), image_sha256=digest, channels=1, whole_range=False)
    found = read_fitted_image(config)
    assert (image_hash(found), found.range) == (digest, (alone.min(), alone.max()))
    assert read_fitted_image(replace(config, whole_range=True)).range == (0, 255)
    # Without a page of that hash, the file has changed, and the first page is used.
    assert read_fitted_image(replace(config, image_sha256="ab")).range == (0, (SHARES // 9).max())


def test_a_reference_with_unclear_units_is_refused(tmp_path: Path) -> None:
    image = read_image(written(tmp_path / "noisy.tif", COUNTS.astype(np.uint16)))
    path = written(tmp_path / "clean.tif", (COUNTS / 3000).astype(np.float32))
    with pytest.raises(
        InputError, match=r"clean.tif: has float32 values of the type's whole range; the image has uint16"
    ):
        read_reference(path, image)
