"""Reading the clean reference and the image of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from self2self.errors import InputError
from self2self.image_io import Image, image_hash, open_stack, read_image
from self2self.image_io.write import stored_values
from self2self.jobs.fit import read_fit_page, read_fitted_image, read_reference
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.observer import Observer
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


def test_the_fit_takes_the_first_page_that_has_something_to_learn_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    empty = np.full((40, 40), 100, np.uint16)
    sparse = np.where(rng.random((40, 40)) < 0.003, 900, 100).astype(np.uint16)
    noisy = rng.normal(500, 30, (40, 40)).astype(np.uint16)

    def chosen(*pages: np.ndarray) -> tuple[np.ndarray, str, list[int]]:
        tifffile.imwrite(tmp_path / "x.tif", np.stack(pages), photometric="minisblack")
        notes: list[str] = []
        read: list[int] = []
        with open_stack(tmp_path / "x.tif") as stack:
            read_page = stack.read_page

            def count(index: int) -> Image:
                read.append(index)
                return read_page(index)

            stack.read_page = count  # type: ignore[method-assign]
            _, page = read_fit_page(stack, FitOptions(), Observer(note=notes.append))
        return stored_values(page.pixels, page)[..., 0], notes[0], read

    page, note, read = chosen(noisy, noisy + 1, noisy + 2)
    assert np.array_equal(page, noisy)
    assert "has 3 pages; fitting to page 1. " in note
    assert read == [0]
    page, note, read = chosen(empty, empty, noisy, noisy + 1)
    assert np.array_equal(page, noisy)
    assert "fitting to page 3, as there is hardly anything to learn from page 1. " in note
    assert read == [0, 1, 2]
    page, _, _ = chosen(empty, sparse, empty)
    assert np.array_equal(page, sparse)
