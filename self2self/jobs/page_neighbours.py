"""The pages of a stack with their neighbours: choose how many help, and fuse each page with them.

Only the neighbours of the current page are in memory. What a page becomes depends on the stack and the number of
neighbours alone, not on the page that a job begins with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from self2self.errors import typed
from self2self.image_io import Image, Stack
from self2self.imaging.clipped_noise import Clipping, certain_clipping
from self2self.imaging.neighbours import Fit, Fused, Neighbour, fuse, neighbour_of, variance_aimed_at
from self2self.imaging.noise import center_crop
from self2self.imaging.noise_curve import median_kurtosis, to_blocks
from self2self.imaging.outliers import clip_to_range, has_impulses, remove_hot_pixels, remove_impulses
from self2self.imaging.smoothing import bands
from self2self.jobs.fit_config import MOST_NEIGHBOURS, FitOptions
from self2self.jobs.observer import Observer
from self2self.jobs.prepared_image import FloatArray, PreparedImage
from self2self.machine.system import compute_threads
from self2self.machine.workers import Workers
from self2self.runtime.ensemble.tile_loop import EnsembleResult

SAMPLED_PAGES = 3
"""Number of pages on which ``auto`` tries neighbours."""
SAMPLED_SIDE = 512
"""Largest side of the middle of a page on which ``auto`` tries neighbours, in pixels."""
TILE_SIDE, TILE_BORDER = 1024, 128
"""Side of the parts of a page that are fused at a time, and the pixels around them that are looked at, too: windows
reach 90 pixels, and shifts the rest."""
LARGEST_PART = (TILE_SIDE + 2 * TILE_BORDER) ** 2
"""Pixels of the largest of these parts, with what is around it."""
Window = tuple[slice, slice]
"""Rows and columns."""
LEAST_WEIGHT, LEAST_FAR_WEIGHT = 0.1, 0.5
"""Smallest mean weight with which ``auto`` takes the nearest neighbours, and the next ones, too."""
LARGEST_KURTOSIS = 4.0
"""Largest kurtosis of fine detail that is no sign of impulses."""
NOTED_SHARE, NOTED_SIGMA = 0.5, 4.0
"""Smallest share of the noise that frames have in common of which the user is told, and the weakest noise, in 8-bit
grey levels; weak noise cannot be told from texture in a single page."""


@dataclass(slots=True)
class NeighbourPages:
    """The pages of a stack, each with its neighbours.

    Attributes:
        stack: the pages.
        count: number of neighbours on each side; 0 for pages by themselves.
    """

    stack: Stack
    count: int
    _read: dict[int, Image] = field(default_factory=dict)

    def read_page(self, index: int) -> Image:
        """Read page `index`, from 0; while its neighbours are used, it is kept for them.

        Raises:
            InputError, ResourceError: the page cannot be used, or does not fit into memory.
        """
        if not self.count:
            return self.stack.read_page(index)
        if index not in self._read:
            for far in [known for known in self._read if abs(known - index) > 2 * self.count]:
                del self._read[far]
            self._read[index] = self.stack.read_page(index)
        return self._read[index]

    def neighbours(self, index: int) -> list[int]:
        """The neighbours of page `index`, from the nearest; at the ends of the stack, as many on the other side."""
        first = max(0, min(index - self.count, self.stack.pages - 1 - 2 * self.count))
        near = range(first, min(first + 2 * self.count + 1, self.stack.pages))
        return sorted((other for other in near if other != index), key=lambda other: (abs(other - index), other))

    def for_model(self, index: int, prepared: PreparedImage) -> PageForModel:
        """Page `index`, which is `prepared`, as a model takes it; errors are those of `fused`."""
        if not self.count:
            return PageForModel(prepared)
        clipping = certain_clipping(clip_to_range(prepared.pixels))
        return PageForModel(prepared, self.fused(index, prepared), clipping)

    def fused(self, index: int, prepared: PreparedImage) -> Fused:
        """Fuse page `index`, from 0, which is `prepared`, with its neighbours; the result has its range of values.

        Raises:
            InputError, ResourceError: a neighbour cannot be used, or does not fit into memory.
        """
        pixels, means = np.empty_like(prepared.pixels), np.empty_like(prepared.pixels)
        _, height, width = pixels.shape
        contrast = np.empty((height, width), np.float32)
        for tile in _tiles(height, width):
            part = self.fused_part(index, prepared, tile.outer)
            pixels[:, *tile.core] = part.pixels[:, *tile.inner]
            means[:, *tile.core] = part.means[:, *tile.inner]
            contrast[tile.core] = part.contrast[tile.inner]
        return Fused(pixels, means, contrast, variance_aimed_at(self.count), ())

    def fused_part(self, index: int, prepared: PreparedImage, window: Window) -> Fused:
        """As `fused`, of the rows and columns `window` by themselves; with what was found of each neighbour."""
        page = remove_hot_pixels(prepared.pixels[:, *window])
        images = [image for other in self.neighbours(index) if not (image := self.read_page(other)).is_empty]
        found: dict[int, Neighbour] = {}

        def find(number: int) -> None:
            image = images[number]
            pixels = _in_range_of(prepared.image, image, window)
            missing = None if image.missing is None else image.missing[window]
            found[number] = neighbour_of(page, remove_hot_pixels(pixels), missing)

        # Neighbours side by side take no more memory than one neighbour of the largest part.
        with closing(Workers(min(compute_threads(), max(1, LARGEST_PART // page[0].size)))) as workers:
            workers.run(find, len(images))
        return fuse(page, [found[number] for number in range(len(images))], variance_aimed_at(self.count))


@dataclass(frozen=True, slots=True)
class PageForModel:
    """A page as a model takes it.

    Attributes:
        page: the page as it is in the stack, in the range of the model.
        fused: the page with its neighbours; None if the model knows of none.
        clipping: how the noise of the page was cut off; None where it was not, or where neighbours do not matter.
    """

    page: PreparedImage
    fused: Fused | None = None
    clipping: Clipping | None = None

    @property
    def prepared(self) -> PreparedImage:
        """What the model is fitted to, or runs on; its noise is not measured yet if it was fused."""
        if self.fused is None:
            return self.page
        image = replace(self.page.image, pixels=self.fused.pixels)
        return replace(self.page, image=image, noise=None, fused=True)

    def part(self, window: Window) -> PageForModel:
        """Some rows and columns of the page, as by themselves."""
        image = self.page.image
        unmeasured = None if image.unmeasured is None else image.unmeasured.part(window)
        image = replace(image, pixels=image.pixels[:, *window], unmeasured=unmeasured)
        page = replace(self.page, image=image)
        return replace(self, page=page, fused=None if self.fused is None else self.fused.part(window))

    def restored(self, result: EnsembleResult) -> EnsembleResult:
        """A result for `prepared` with the contrast and the brightness of the page."""
        if self.fused is None:
            return result
        deviations = result.uncertainty
        return replace(
            result,
            image=self.fused.restored(result.image, self.clipping),
            uncertainty=None if deviations is None else self.fused.restored_deviations(deviations),
        )


def alone(prepared: PreparedImage, count: int) -> PageForModel:
    """A single image for a model that was fitted to pages with `count` neighbours on each side."""
    if not count:
        return PageForModel(prepared)
    return PageForModel(prepared, fuse(remove_hot_pixels(prepared.pixels), [], variance_aimed_at(count)))


def choose_neighbours(
    stack: Stack, index: int, prepared: PreparedImage, fitting: FitOptions, observer: Observer
) -> int:
    """The number of neighbours on each side with which the pages of `stack` are fused.

    Args:
        stack: the pages.
        index: of the page to fit to, from 0.
        prepared: this page.
        fitting: options of the fit; ``auto`` takes as many as fit on some pages.
        observer: gets a note.

    Raises:
        InputError, ResourceError: a page cannot be used, or does not fit into memory.
    """
    if stack.pages == 1 or fitting.neighbours == 0 or prepared.image.is_empty:
        return 0
    middle = center_crop(prepared.pixels, SAMPLED_SIDE)
    if _kurtosis(middle) > LARGEST_KURTOSIS and has_impulses(middle, remove_impulses(middle)):
        observer.note(f"{stack.path}: has impulses, so every page is denoised by itself.")
        return 0
    asked = None if fitting.neighbours == "auto" else int(fitting.neighbours)
    pages = NeighbourPages(stack, min(MOST_NEIGHBOURS if asked is None else asked, max(1, (stack.pages - 1) // 2)))
    near, far = _sampled_fits(pages, index, prepared)
    _note_shared(stack, near, prepared, observer)
    near_weight, far_weight = (float(np.mean([fit.weight for fit in fits])) if fits else 0.0 for fits in (near, far))
    if asked is not None:
        return pages.count
    if near_weight < LEAST_WEIGHT:
        return 0
    count = 2 if pages.count == 2 and far_weight >= LEAST_FAR_WEIGHT else 1
    observer.note(
        f"{stack.path}: each page is fused with its {2 * count} nearest pages, where they show the same "
        f"({100 * near_weight:.0f} % of what was tried). To denoise every page by itself: {typed('--neighbours 0')}"
    )
    return count


def _sampled_fits(pages: NeighbourPages, index: int, prepared: PreparedImage) -> tuple[list[Fit], list[Fit]]:
    """How well neighbours fit on some pages: those at a distance of one, and those farther away."""
    near: list[Fit] = []
    far: list[Fit] = []
    for place in range(SAMPLED_PAGES):
        sampled = (index + place * pages.stack.pages // SAMPLED_PAGES) % pages.stack.pages
        image = pages.read_page(sampled)
        if image.is_empty:
            continue
        page = prepared if sampled == index else PreparedImage(image, None, whole_range=False)
        others = [other for other in pages.neighbours(sampled) if not pages.read_page(other).is_empty]
        window = _middle_of(*page.pixels.shape[1:])
        fits = pages.fused_part(sampled, page, window).neighbours
        for other, fit in zip(others, fits, strict=True):
            (near if abs(other - sampled) == 1 else far).append(fit)
    return near, far


def _note_shared(stack: Stack, near: list[Fit], prepared: PreparedImage, observer: Observer) -> None:
    """Say it if pages repeat, or share a part of their noise."""
    repeated = [fit for fit in near if fit.is_duplicate]
    if repeated:
        observer.note(
            f"{stack.path}: holds the same frame more than once in a row; a repeated frame counts for nothing."
        )
    shares = [fit.shared for fit in near if not fit.is_duplicate and fit.weight > LEAST_WEIGHT]
    shared = float(np.median(shares)) if shares else 0.0
    if shared > NOTED_SHARE and prepared.measured_noise.sigma >= NOTED_SIGMA:
        observer.note(
            f"{stack.path}: about {100 * shared:.0f} % of the noise is the same in successive pages, as the fixed "
            "pattern of a sensor is. It stays in the result; subtract a dark frame first."
        )


def _kurtosis(pixels: FloatArray) -> float:
    """Kurtosis of the finest detail of (C, H, W) in small squares, median over the squares: 3 for Gaussian noise."""
    (detail, *_), _ = bands(pixels, 1)
    return median_kurtosis(np.concatenate([to_blocks(plane.astype(np.float64)) for plane in detail]))


def _in_range_of(image: Image, other: Image, window: Window) -> FloatArray:
    """The pixels of `other` in `window`, in the range of values of `image`."""
    pixels = other.pixels[:, *window]
    if other.range == image.range:
        return pixels
    factor, offset = other.scale / image.scale, (other.offset - image.offset) / image.scale
    return np.asarray(pixels * np.float32(factor) + np.float32(offset), np.float32)


@dataclass(frozen=True, slots=True)
class _Tile:
    """A part of a page that is fused by itself, so that temporary arrays stay small.

    Attributes:
        outer: its rows and columns in the page, with those around it that it depends on.
        core: those that are kept.
        inner: `core` within `outer`.
    """

    outer: Window
    core: Window
    inner: Window


def _tiles(height: int, width: int) -> Iterator[_Tile]:
    """Tiles whose cores cover a page."""
    for top in range(0, height, TILE_SIDE):
        for left in range(0, width, TILE_SIDE):
            (rows, core_rows, inner_rows), (columns, core_columns, inner_columns) = (
                _along(start, side) for start, side in ((top, height), (left, width))
            )
            yield _Tile((rows, columns), (core_rows, core_columns), (inner_rows, inner_columns))


def _along(start: int, side: int) -> tuple[slice, slice, slice]:
    """`_Tile.outer`, `core` and `inner` along one axis."""
    end = min(start + TILE_SIDE, side)
    first = max(0, start - TILE_BORDER)
    return slice(first, min(end + TILE_BORDER, side)), slice(start, end), slice(start - first, end - first)


def _middle_of(height: int, width: int) -> Window:
    """The middle of a page, up to `SAMPLED_SIDE` a side."""
    rows, columns = (slice(max(0, (side - SAMPLED_SIDE) // 2), (side + SAMPLED_SIDE) // 2) for side in (height, width))
    return rows, columns
