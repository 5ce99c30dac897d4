"""What is decided once for a volume, before its first block: range of values, missing value, fit, model, engine.

All of it is found from a few parts of the volume, at places that its shape decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from self2self.arrays.channels import SHARED_NOISE_FACTOR
from self2self.errors import InputError, UsageError, typed
from self2self.image_io import Metadata
from self2self.image_io.image import Array, StoredImage
from self2self.image_io.missing import Nodata, filled, find_missing
from self2self.image_io.value_range import choose_value_range
from self2self.image_io.volumes import Volume
from self2self.imaging.missing import share_to_learn_from
from self2self.imaging.noise import measure_noise
from self2self.jobs.fit import ENOUGH_TO_LEARN, page_to_fit
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.fitted_model import FittedModel, fit_model
from self2self.jobs.observer import Observer
from self2self.jobs.page_neighbours import NeighbourPages
from self2self.jobs.prepared_image import FloatArray, prepare_for_model
from self2self.jobs.single_pass import SinglePass, allows_single_pass
from self2self.jobs.volumes.group import Group, Window
from self2self.jobs.volumes.group_plan import GroupPlan, Scale
from self2self.jobs.volumes.layout import VolumeLayout
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model

SAMPLES, SAMPLED_SIDE = 16, 256
"""Number of parts from which the range of values is found, and their side in pixels."""
FITTED_SIDE = 512
"""Side of the part that is fitted to."""
CHECKED = 4
"""Number of parts on which a single pass is compared with real passes."""
MEAN_SIDE = 16
"""Side of the squares whose means tell how much a part shows."""
MOST_TRIED = 512
"""Number of parts that are tried, if many of them hold a single value or cannot be read."""
STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)
"""Steps of a sequence that fills space evenly (Roberts' R3 sequence), as shares of pages, rows and columns."""


def groups_of(volume: Volume, layout: VolumeLayout) -> tuple[slice, ...]:
    """The channels that are denoised together: three whose noise is about the same, as colours; else each by itself.

    Raises:
        InputError: nothing of a channel can be read.
    """
    count = layout.length("C")
    apart = tuple(slice(index, index + 1) for index in range(count))
    if count != 3 or layout.length("S") > 1:
        return apart
    levels = []
    for channels in apart:
        first = next(_readable(Group(volume, layout, channels), SAMPLES, SAMPLED_SIDE))[2]
        offset, scale = float(first.min()), float(np.ptp(first.astype(np.float64))) or 1.0
        pixels = ((first.astype(np.float64) - offset) / scale).astype(np.float32)
        levels.append(measure_noise(np.moveaxis(pixels, 2, 0)).sigma * scale)
    return (slice(0, 3),) if max(levels) <= SHARED_NOISE_FACTOR * min(levels) else apart


def plan_group(
    group: Group, fitting: FitOptions, options: EnsembleOptions, observer: Observer, *, force: bool = False
) -> tuple[GroupPlan, Model, FittedModel]:
    """Decide everything about one group of channels; fits to a part of one page.

    Args:
        group: the channels.
        fitting: options of the fit; the page is the best of some parts unless it is given.
        options: of the passes.
        observer: gets notes and progress.
        force: whether to replace a fit that has other settings or is damaged.

    Returns:
        the plan, the model that its blocks run, and the fit.

    Raises:
        InputError: hardly anything of the volume can be read, or nothing in it is to be denoised.
        Self2SelfError: anything else that a user can cause.
    """
    path = group.volume.path
    scale = _scale_of(group, fitting)
    index, window = _fitted_part(group, _page_of(group, fitting), scale)
    with group.stack(group.pages(window), scale.value_range, scale.nodata) as stack:
        image = stack.read_page(index)
        if image.is_empty:
            raise InputError(
                f"{path}: the parts that were looked at hold nothing to denoise. Name a page that does: "
                f"{typed('--page N')}"
            )
        fitting = replace(fitting, page=index + 1, mosaic=False, nodata=scale.nodata)
        prepared, fitting = page_to_fit(stack, fitting, observer)
    observer.note(
        f"{path}: fitting to {_in_words(group.layout, index, window)}. To fit to another page: {typed('--page N')}"
    )
    fitted = fit_model(prepared, fitting, observer, force=force)
    model = _model_for_blocks(group, fitted, options, observer, scale, (index, window))
    noise = fitted.fit.config.page_noise
    # Engines that round would look at the values of every block by itself, so no size is large enough for them.
    engine = get_engine(options.engine, plain_pixels=0 if model.contract.plain else None).name
    plan = GroupPlan(
        channels=(group.channels.start, group.channels.stop),
        scale=scale,
        model=hashlib.sha256(model.path.read_bytes()).hexdigest(),
        engine=engine,
        sigma=None if noise is None else noise.sigma,
        page=index + 1,
    )
    return plan, model, fitted


def _part(layout: VolumeLayout, number: int, side: int) -> tuple[int, Window]:
    """A page, and rows and columns in it; with the number they go through the volume evenly."""
    (height, width), (page, row, column) = layout.size, ((0.5 + number * step) % 1 for step in STEPS)
    return int(page * layout.pages), (_span(height, side, row), _span(width, side, column))


def _span(length: int, side: int, share: float) -> slice:
    start = int(share * (length - side + 1)) if length > side else 0
    return slice(start, min(length, start + side))


def _readable(group: Group, count: int, side: int, page: int | None = None) -> Iterator[tuple[int, Window, Array]]:
    """Some parts of a volume with their values (H, W, C), all of one page if it is given.

    Parts that hold a single value, or that cannot be read, are passed over.

    Raises:
        InputError: there is no other part among those that are tried.
    """
    error, found = None, 0
    for number in range(MOST_TRIED):
        index, window = _part(group.layout, number, side)
        index = index if page is None else page
        try:
            values = group.read(index, window)
        except InputError as unreadable:
            error = error or unreadable
            continue
        if (values != values[:1, :1]).any():
            found += 1
            yield index, window, values
            if found == count:
                return
    if not found:
        nothing = f"{group.volume.path}: {MOST_TRIED} parts were looked at, and each holds a single value. Name a page "
        raise error or InputError(f"{nothing}that shows something: {typed('--page N')}")


def _scale_of(group: Group, fitting: FitOptions) -> Scale:
    """The range of values, and the value of missing pixels: as asked, or one that lies far from all others."""
    parts = _readable(group, SAMPLES, SAMPLED_SIDE, _page_of(group, fitting))
    montage = np.concatenate([values for _, _, values in parts])
    stored = StoredImage(montage, None, Metadata())
    nodata: Nodata = fitting.nodata
    if nodata is None:
        found = find_missing(stored)
        constants = None if found is None or found.where.all() else found.values[np.isfinite(found.values).all(axis=1)]
        is_one = constants is not None and constants.size > 0 and bool((constants == constants[0, 0]).all())
        nodata = float(constants[0, 0]) if is_one and constants is not None else "none"
    unmeasured = find_missing(stored, nodata)
    missing = None if unmeasured is None else unmeasured.where
    values = montage if missing is None else filled(montage, missing)
    # 8 bits have a known black and white, which parts of a volume need not show.
    return Scale(choose_value_range(values, whole_range=values.dtype == np.uint8, missing=missing), nodata)


def _page_of(group: Group, fitting: FitOptions) -> int | None:
    """The page, from 0, that the user names; None for any.

    Raises:
        UsageError: there is no such page.
    """
    if fitting.page is None:
        return None
    if fitting.page > group.layout.pages:
        raise UsageError(
            f"{typed('--page', fitting.page)}: {group.volume.path} has {group.layout.pages} pages, counted from 1."
        )
    return fitting.page - 1


def _fitted_part(group: Group, page: int | None, scale: Scale) -> tuple[int, Window]:
    """The page to fit to, `page` if it is given, and its rows and columns: of some parts, the one that shows most."""
    best: tuple[float, int, Window] | None = None
    for index, window, _ in _readable(group, SAMPLES, FITTED_SIDE, page):
        with group.stack(group.pages(window), scale.value_range, scale.nodata) as stack:
            image = stack.read_page(index)
        score = 0.0 if image.is_empty else _shown(image.pixels)
        if share_to_learn_from(image.pixels, image.missing) < ENOUGH_TO_LEARN:
            score = 0.0
        if best is None or score > best[0]:
            best = score, index, window
    assert best is not None  # noqa: S101 - `_readable` has raised
    return best[1:]


def _shown(pixels: FloatArray) -> float:
    """How much a part (C, H, W) shows: the standard deviation of the means of its squares."""
    _, height, width = pixels.shape
    side = min(MEAN_SIDE, height, width)
    squares = pixels[:, : height // side * side, : width // side * side]
    means = squares.reshape(len(pixels), height // side, side, width // side, side).mean(axis=(2, 4))
    return float(means.std())


def _model_for_blocks(
    group: Group,
    fitted: FittedModel,
    options: EnsembleOptions,
    observer: Observer,
    scale: Scale,
    fitted_part: tuple[int, Window],
) -> Model:
    """The single pass of the fit, if it is as good as real passes on several parts of the volume; else the passes."""
    model, contract = fitted.model, fitted.model.contract
    if not allows_single_pass(contract, options):
        return model
    checked = [fitted_part, *((page, window) for page, window, _ in _readable(group, CHECKED, SAMPLED_SIDE))]
    single: SinglePass | None = None
    for page, window in checked:
        with group.stack(group.pages(window), scale.value_range, scale.nodata) as stack:
            pages = NeighbourPages(stack, contract.neighbours)
            image = pages.read_page(page)
            if image.is_empty:
                continue
            seen = pages.for_model(page, prepare_for_model(image, whole_range=contract.whole_range)).prepared
        single = single or SinglePass(fitted.fit.run, fitted.model, observer, seen.pixels)
        model = single.model_for(seen.pixels, f"{group.volume.path}, page {page + 1}", seed=options.seed, crops=1)
        if not model.contract.plain:
            break
    return model


def _in_words(layout: VolumeLayout, index: int, window: Window) -> str:
    rows, columns = window
    page = f"page {index + 1} of {layout.pages}" if layout.pages > 1 else "the page"
    if (rows.stop - rows.start, columns.stop - columns.start) == layout.size:
        return page
    return f"rows {rows.start} to {rows.stop - 1} and columns {columns.start} to {columns.stop - 1} of {page}"
