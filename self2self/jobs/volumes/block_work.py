"""Denoise one block of a volume, in this process or on another machine: a function of its task alone.

A process keeps one prepared engine and the models it has seen, by the digest of their files.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import writing
from self2self.image_io.image import Array
from self2self.image_io.volumes import open_volume
from self2self.image_io.volumes.volume import Volume
from self2self.jobs.observer import Observer
from self2self.jobs.page_neighbours import TILE_BORDER, NeighbourPages, PageForModel
from self2self.jobs.passes import run_passes
from self2self.jobs.prepared_image import prepare_for_model
from self2self.jobs.volumes.blocks import Block
from self2self.jobs.volumes.group import Group, Window, WindowPages
from self2self.jobs.volumes.group_plan import GroupPlan
from self2self.jobs.volumes.layout import VolumeLayout
from self2self.jobs.volumes.same_source import WatchedVolume, values_sha256
from self2self.jobs.worker import ModelFile, worker_state
from self2self.machine.system import host_name
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model


@dataclass(frozen=True, slots=True)
class BlockTask:
    """What a block is made of. It can be pickled, and is small.

    Attributes:
        source: path of the volume, as this process or a worker opens it.
        layout: of the volume.
        block: which block.
        plan: of its group of channels.
        options: of the passes; their engine is that of the plan.
        write_to: where a worker writes the block (`Target.location`); empty to return its values.
    """

    source: Path
    layout: VolumeLayout
    block: Block
    plan: GroupPlan
    options: EnsembleOptions
    write_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockResult:
    """A denoised block.

    Attributes:
        record: how it was made, as JSON values.
        values: in the shape and type of the volume; None if they are written.
    """

    record: dict[str, Any]
    values: Array | None


def denoise_block(
    task: BlockTask, model_file: ModelFile, volume: Volume | None = None, observer: Observer | None = None
) -> BlockResult:
    """Denoise the block of `task`, and write it where the task says so.

    Args:
        task: the block.
        model_file: the model of the group.
        volume: the open volume; None to open it.
        observer: gets progress, and may cancel; None for none.

    Raises:
        InputError: the block cannot be read.
        OutputError, ResourceError: it cannot be written where the task says so.
        Self2SelfError: anything else that a user can cause.
    """
    if volume is None:
        with open_volume(task.source) as opened:
            return denoise_block(task, model_file, opened, observer)
    start = time.perf_counter()
    layout, block = task.layout, task.block
    model = worker_state().model(model_file)
    watched = WatchedVolume(volume)
    group = Group(watched, layout, block.channels)
    source, window = _pages_and_window(group, task, model.contract.neighbours)
    numbers = [layout.page(block.time, depth) for depth in range(block.depths.start, block.depths.stop)]
    pages = [_denoise_page(task, model, source, window, number, observer or Observer()) for number in numbers]
    selection = block.selection(layout)
    shape = tuple(part.stop - part.start for part in selection)
    values = layout.from_pages(np.stack([page for page, _ in pages]), shape)
    noisy = np.stack([source.read(number).values[window][block.inner] for number in numbers])
    record = {"block": block.number, "source": values_sha256(noisy), "reads": watched.reads, "host": host_name()}
    record |= _summary([figures for _, figures in pages]) | {"seconds": round(time.perf_counter() - start, 3)}
    if not task.write_to:
        return BlockResult(record, values)
    from self2self.image_io.volumes.zarr_volume import write_to

    with writing(task.write_to[0]):
        write_to(task.write_to, selection, values)
    return BlockResult(record, None)


def _pages_and_window(group: Group, task: BlockTask, neighbours: int) -> tuple[WindowPages, Window]:
    """The pages of the block and their neighbours, read; and the window of the block in them."""
    layout, block = task.layout, task.block
    # What the fusion with neighbours looks at around the window.
    border = TILE_BORDER if neighbours else 0
    (top, bottom), (left, right) = (
        (max(0, part.start - border), min(length, part.stop + border))
        for part, length in zip(block.window, layout.size, strict=True)
    )
    source = group.pages((slice(top, bottom), slice(left, right)))
    first, last = block.depths.start - neighbours, block.depths.stop + neighbours
    source.keep(block.time, slice(max(0, first), min(layout.length("Z"), last)))
    rows, columns = block.window
    return source, (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))


def _denoise_page(
    task: BlockTask, model: Model, source: WindowPages, window: Window, index: int, observer: Observer
) -> tuple[Array, dict[str, Any]]:
    """One page of the block: its values (H, W, C) as they are stored, and figures."""
    block, scale = task.block, task.plan.scale
    noisy = source.read(index).values[window][block.inner]
    if (noisy == noisy[:1, :1]).all():
        return noisy, {"passes": 0, "plain": False}
    with source.group.stack(source, scale.value_range, scale.nodata) as stack:
        pages = NeighbourPages(stack, model.contract.neighbours)
        image = pages.read_page(index)
        prepared = prepare_for_model(image, whole_range=not image.is_empty and model.contract.whole_range)
        page = PageForModel(prepared) if image.is_empty else pages.for_model(index, prepared)
    page = page.part(window)
    center = page.page.center()
    seed = (task.options.seed + index) % 2**32
    options = replace(task.options, engine=task.plan.engine, seed=seed, pages=task.layout.pages)
    result = run_passes(
        None if page.page.image.is_empty else model,
        page.prepared,
        options,
        observer,
        may_overwrite=False,
        engine_holder=worker_state().engine_holder,
        part=block.part(task.layout),
    )
    result = page.restored(result)
    residual = center.residual(result.image)
    figures = {
        "passes": result.passes,
        "plain": result.plain,
        "engine": result.engine,
        "provider": result.provider,
        "mean": residual.mean,
        "variance": residual.standard_deviation**2,
        "standard_error": result.standard_error,
    }
    return page.page.to_file_values(result.image)[block.inner], figures


def _summary(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """What the record of a block says of its pages."""
    run = [page for page in figures if page["passes"]]
    summary: dict[str, Any] = {
        "pages": len(figures),
        "passes": sum(page["passes"] for page in run),
        "plain": bool(run) and all(page["plain"] for page in run),
    }
    if run:
        errors = [page["standard_error"] for page in run]
        summary |= {
            "engine": run[0]["engine"],
            "provider": run[0]["provider"],
            "residual_mean": round(float(np.mean([page["mean"] for page in run])), 3),
            "residual_deviation": round(math.sqrt(float(np.mean([page["variance"] for page in run]))), 3),
            "standard_error": None if any(map(math.isnan, errors)) else float(np.sqrt(np.mean(np.square(errors)))),
        }
    return summary
