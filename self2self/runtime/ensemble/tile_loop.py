"""Run all passes of one tile after the other, and blend the tiles into the finished image.

An image that fits into the memory budget is one tile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.local_means import LocalMeans
from self2self.imaging.padding import Padding
from self2self.imaging.tone_bias import ToneBias
from self2self.machine.marks import file_sha256
from self2self.machine.system import compute_threads
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.ensemble.device_engine import DeviceEngine, free_device_bytes, largest_device_batch, masks_for
from self2self.runtime.ensemble.device_loop import run_device_ensemble
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.host_loop import PassesResult, run_ensemble
from self2self.runtime.ensemble.kept_passes import KeptPasses
from self2self.runtime.ensemble.moments import KeptSums, PassSums
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.pass_plan import PassPlan, device_pass_plan
from self2self.runtime.ensemble.plain_loop import run_plain
from self2self.runtime.ensemble.tiles import Canvas, Correction, PartOfImage, TilePlan, place_of
from self2self.runtime.memory_budget import largest_host_batch
from self2self.runtime.model import Model


@dataclass(frozen=True, slots=True)
class EnsembleResult:
    """A finished image and how it was made.

    Attributes:
        image: float32 (C, H, W), in [0, 1] except for outliers of the noisy image (`imaging.outliers`).
        uncertainty: float32 (C, H, W), standard deviation over the passes; None if it was not asked for.
        engine: `--engine` name of the engine that ran.
        provider: the back end that the engine ran on.
        passes: number of passes; with tiles, the mean over the tiles.
        pass_plan: how the passes were drawn.
        batch: passes in one run of the engine.
        seed: seed of the masks.
        seconds: time of ``prepare``, ``masks``, ``passes`` and ``reduce``.
        standard_error: standard error of the mean, RMS over all values, in 8-bit grey levels. Where tiles overlap, it
            counts the error of a single tile, which is larger than the error of the blend.
        tile: (height, width) of the tiles; None if the image was not cut.
        tiles: number of tiles; 1 if the image was not cut.
        mask_source: ``"host"`` or ``"device"``: where the masks were made.
        fallback: why another engine than the requested one ran; empty if the requested engine ran.
        plain: whether the passes were those of a plain model, without masks; they have no standard error.
    """

    image: FloatArray
    uncertainty: FloatArray | None
    engine: str
    provider: str
    passes: int
    pass_plan: PassPlan
    batch: int
    seed: int
    seconds: dict[str, float]
    standard_error: float
    tile: tuple[int, int] | None = None
    tiles: int = 1
    mask_source: str = "host"
    fallback: str = ""
    plain: bool = False

    @property
    def passes_per_second(self) -> float:
        """Passes per second; the time for masks and sums counts."""
        return self.passes / max(1e-9, sum(self.seconds[key] for key in ("masks", "passes", "reduce")))


@dataclass(slots=True)
class TileLoop:
    """The checked arguments of `denoise_pixels`, and the loop over the tiles of a plan.

    `denoise_pixels` may run it several times, each time with smaller tiles.

    Attributes:
        model, pixels, on_progress, on_note: as for `denoise_pixels`.
        engine: class of an engine that works on this machine.
        options: options of the ensemble; `mask_source` is ``"host"`` or ``"device"``.
        engine_holder: provides the engine and keeps it; None for a holder that closes the engine after the run.
        missing: as for `denoise_pixels`.
        kept: as for `denoise_pixels`.
        part: as for `denoise_pixels`.
        finished_lines: number of finished lines of the output.
    """

    model: Model
    pixels: FloatArray
    engine: type[Engine]
    options: EnsembleOptions
    on_progress: Callable[[PassSums], None] | None = None
    on_note: Callable[[str], None] = lambda text: None
    engine_holder: EngineHolder | None = None
    missing: NDArray[np.bool_] | None = None
    kept: KeptPasses | None = None
    part: PartOfImage | None = None
    finished_lines: int = field(default=0, init=False)
    _maker: MaskMaker | None = field(default=None, init=False)

    @property
    def pass_plan(self) -> PassPlan:
        """How passes are drawn, given the place where masks are made."""
        plan = self.options.pass_plan_for(self.model.contract, *self.size_of_whole)
        return device_pass_plan(plan) if self.options.mask_source == "device" else plan

    @property
    def padding(self) -> Padding:
        """What is added around the image, so that it has a size that the network can take."""
        contract = self.model.contract
        if self.part is not None:
            return self.part.padding(contract)
        _, height, width = self.pixels.shape
        return Padding.for_size(height, width, contract.size_multiple, contract.minimum_size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the padded image."""
        padding = self.padding
        _, height, width = self.pixels.shape
        return padding.top + height + padding.bottom, padding.left + width + padding.right

    @property
    def size_of_whole(self) -> tuple[int, int]:
        """Height and width of the image, or of the larger one that it is a part of."""
        _, height, width = self.pixels.shape
        return (height, width) if self.part is None else (self.part.height, self.part.width)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the bits of the passes on this machine, besides the image and the tiles; JSON values."""
        return {
            "model": file_sha256(self.model.path),
            "engine": [self.engine.name, self.engine.version()],
            "threads": compute_threads(),
            "plan": asdict(self.pass_plan),
            "mask source": self.options.mask_source,
            "seed": self.options.seed,
            "size": list(self.pixels.shape),
        }

    def run(self, plan: TilePlan, out: FloatArray, room: int) -> EnsembleResult:
        """Run all passes of one tile after the other, and blend the tiles into `out`.

        Args:
            plan: how the padded image is cut; one tile for the whole image.
            out: float32 (C, H, W) that becomes the result; may be `pixels`.
            room: bytes for the engine, its masks and the sums.

        Raises:
            PassTooLarge: a single pass over a tile does not fit into memory.
            Self2SelfError: as for the engine.
        """
        contract, options = self.model.contract, self.options
        start = time.perf_counter()
        self._maker = None
        deviation = np.empty(self.pixels.shape, np.float32) if options.uncertainty and not contract.plain else None
        restores = options.restores(contract.recipe)
        corrections = self._corrections() if restores else []
        share = contract.noisy_share if restores else 0.0
        # `out` may be `pixels`, so this comes first.
        constant = _constant_channels(self.pixels, self.missing) if restores else {}
        image_canvas = Canvas(plan, self.padding, out, self.pixels, corrections, share)
        deviation_canvas = None if deviation is None else Canvas(plan, self.padding, deviation)
        largest_batch = largest_host_batch(
            self.engine.pass_bytes(contract, plan.axes), self.engine.further_pass_bytes(contract, plan.axes), room
        )
        # A memory budget of the user also limits a batch of the user.
        batch = options.batch
        if batch is not None and options.memory is not None:
            batch = min(batch, largest_batch)
        seconds = dict.fromkeys(("prepare", "masks", "passes", "reduce"), 0.0)
        variance, passes, provider = 0.0, 0, ""
        top, left = (0, 0) if self.part is None else self.part.origin(contract)
        if self.kept is not None:
            self.kept.use_tiles(plan)
        with ExitStack() as stack:
            engine_holder = self.engine_holder or stack.enter_context(EngineHolder())
            for index, (row, column, tile) in enumerate(self._tiles(plan)):
                earlier = None if self.kept is None else self.kept.finished_tile(index, plan.count)
                if earlier is not None:
                    result, provider = earlier
                else:
                    whole = self.pixels if plan.count > 1 else None
                    running = engine_holder.engine_for(self.engine, self.model, tile, self.on_note, whole)
                    if not seconds["prepare"]:
                        seconds["prepare"] = time.perf_counter() - start
                    place = place_of(top + plan.rows.starts[row], left + plan.columns.starts[column])
                    result = self._run_tile(running, plan, place, batch, largest_batch, index)
                    provider = running.provider()
                    if self.kept is not None:
                        self.kept.keep_tile(index, result, provider, uncertainty=deviation_canvas is not None)
                # The other tiles take the batch that the first tile found by trials.
                batch = result.batch
                image_canvas.add(row, column, result.moments.mean())
                if deviation_canvas is not None:
                    deviation_canvas.add(row, column, result.moments.standard_deviation())
                area_share = float(np.sum(plan.weights(row, column))) / math.prod(self.size)
                variance += area_share * result.moments.standard_error() ** 2
                passes += result.moments.count
                self.finished_lines = image_canvas.lines
                for key, spent in result.seconds.items():
                    seconds[key] += spent
        restore_start = time.perf_counter()
        for correction in corrections:
            correction.restore(out)
            if correction.note:
                self.on_note(correction.note)
        seconds["reduce"] += time.perf_counter() - restore_start
        for channel, value in constant.items():
            out[channel] = value
            if deviation is not None:
                deviation[channel] = 0
        return EnsembleResult(
            image=out,
            uncertainty=deviation,
            engine=self.engine.name,
            provider=provider,
            passes=round(passes / plan.count),
            pass_plan=self.pass_plan,
            batch=result.batch,
            seed=options.seed,
            seconds=seconds,
            standard_error=math.sqrt(variance),
            tile=(plan.rows.tile, plan.columns.tile) if plan.count > 1 else None,
            tiles=plan.count,
            mask_source=options.mask_source,
            plain=contract.plain,
        )

    def _corrections(self) -> list[Correction]:
        """What the result is corrected by, in this order."""
        shape = self.pixels.shape
        corrections: list[Correction] = [LocalMeans(shape, self.missing)]
        if self.part is None:
            # Parts of an image would be brightened by amounts of their own, and their edges would show.
            corrections.append(ToneBias(shape, self.missing))
        return corrections

    def _tiles(self, plan: TilePlan) -> Iterator[tuple[int, int, FloatArray]]:
        """Yield the row, the column and the pixels, float32 [1, C, tile, tile] in [0, 1], of each tile."""
        # The indices are padded instead of the pixels, so that no second image takes memory.
        rows, columns = self.padding.pad_indices(self.pixels.shape[1], self.pixels.shape[2])
        for row, column in np.ndindex(len(plan.rows.starts), len(plan.columns.starts)):
            top, left = plan.rows.starts[row], plan.columns.starts[column]
            lines = rows[top : top + plan.rows.tile, None]
            tile = np.ascontiguousarray(self.pixels[:, lines, columns[left : left + plan.columns.tile]], np.float32)
            yield row, column, np.clip(tile, 0, 1, out=tile)[None]

    def _run_tile(
        self, running: Engine, plan: TilePlan, place: int, batch: int | None, largest_batch: int, index: int
    ) -> PassesResult:
        """Run all passes over tile `index`, at `place`, with masks from the source that the options name."""
        tile = (index, plan.count)
        if self.model.contract.plain:
            mirrorings = self.options.mirrorings(*self.size_of_whole)
            return run_plain(running, mirrorings, on_progress=self.on_progress, tile=tile)
        kept = None if self.kept is None else self.kept.sums_of(*tile)
        if self.options.mask_source == "device":
            return self._run_on_device(running, plan.axes, place, batch, tile, kept)
        if self._maker is None:
            self._maker = running.mask_maker(self.options.seed, balanced=self.pass_plan.balanced)
        self._maker.place = place
        return run_ensemble(
            running,
            self._maker,
            self.pass_plan,
            batch=batch,
            largest_batch=min(largest_batch, self.engine.useful_batch(plan.axes)),
            on_progress=self.on_progress,
            tile=tile,
            kept=kept,
        )

    def _run_on_device(
        self,
        running: Engine,
        axes: dict[str, int],
        place: int,
        batch: int | None,
        tile: tuple[int, int],
        kept: KeptSums | None,
    ) -> PassesResult:
        if not isinstance(running, DeviceEngine):
            raise TypeError(f"{running.name} takes no masks on a device")
        contract = running.model.contract
        return run_device_ensemble(
            running,
            masks_for(running, self.options.seed, place),
            self.pass_plan,
            batch=batch,
            largest_batch=largest_device_batch(contract, axes, free_device_bytes(running.device)),
            on_progress=self.on_progress,
            on_note=self.on_note,
            tile=tile,
            kept=kept,
        )


def _constant_channels(pixels: FloatArray, missing: NDArray[np.bool_] | None) -> dict[int, np.float32]:
    """Channels of one value, such as a dead or a saturated one, and that value: without noise there is none to remove.

    Args:
        pixels: (C, H, W).
        missing: (H, W), true where nothing was measured, which does not count; None for nowhere.
    """
    where: NDArray[np.bool_] | bool = True if missing is None else ~missing
    found = {}
    for channel, values in enumerate(pixels):
        least = np.min(values, where=where, initial=np.inf)
        if least == np.max(values, where=where, initial=-np.inf):
            found[channel] = least
    return found
