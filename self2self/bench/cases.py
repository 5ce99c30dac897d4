"""The figures of one benchmark case, computed from the timings of repeated rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from self2self.bench.measure import spread

PLAIN = "plain"
"""Name of the plain PyTorch loop in the `engine` field of a case."""
PARTS = ("masks", "copies", "compute", "reduction")
"""Parts of a pass that a `Timing` separates."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of one case in one round, in seconds.

    Attributes:
        seconds: wall-clock time of all passes of the case.
        masks, reduction: time for drawing masks and for summing predictions, both outside the engine.
        copies: time for copying masks into the engine and predictions out of it; None where the engine cannot
            separate copying from computing.
        compute: the rest of the engine's time.
    """

    seconds: float
    masks: float = 0.0
    copies: float | None = None
    compute: float = 0.0
    reduction: float = 0.0


@dataclass(slots=True)
class BenchmarkCase:
    """One engine, or the plain loop, at one image size with one batch size.

    Attributes:
        engine: `--engine` name, or `PLAIN`.
        provider: the backend that ran, as the engine reports it.
        precision: floating-point type in which the model computes.
        batch: passes in one run of the engine.
        size: (height, width) in pixels.
        passes: passes in each round.
        prepare_seconds: time to load the engine; None for the plain loop, which has nothing to prepare.
        memory: result of `memory.measure_memory`; None where memory was not measured.
        timings: one timing for each round.
    """

    engine: str
    provider: str
    precision: str
    batch: int
    size: tuple[int, int]
    passes: int
    prepare_seconds: float | None = None
    memory: dict[str, Any] | None = None
    timings: list[Timing] = field(default_factory=list)

    def entry(self, plain: BenchmarkCase, gflop: float, peak_gflops: float | None) -> dict[str, Any]:
        """Compute the figures of this case for the JSON document.

        Args:
            plain: the plain loop at the same size, in the same rounds.
            gflop: operations of one pass, in 10^9.
            peak_gflops: GFLOP/s of the machine's matrix product; None where the product is no ceiling for this
                engine.
        """
        rate = spread([self.passes / timing.seconds for timing in self.timings])
        height, width = self.size
        megapixels = 1e-6 * height * width
        return {
            "engine": self.engine,
            "provider": self.provider,
            "precision": self.precision,
            "batch": self.batch,
            "height": height,
            "width": width,
            "passes_per_round": self.passes,
            "seconds_per_pass": spread([timing.seconds / self.passes for timing in self.timings]),
            "passes_per_second": rate,
            "megapixel_passes_per_second": {key: megapixels * value for key, value in rate.items()},
            "parts_seconds_per_pass": None if self.engine == PLAIN else self._parts(),
            "prepare_seconds": self.prepare_seconds,
            "memory": self.memory,
            "share_of_matrix_product": None if peak_gflops is None else rate["median"] * gflop / peak_gflops,
            # A ratio compares two timings of the same round, so that drift of the machine affects both.
            "ratio_to_plain": spread(
                [
                    (base.seconds / plain.passes) / (timing.seconds / self.passes)
                    for base, timing in zip(plain.timings, self.timings, strict=True)
                ]
            ),
        }

    def _parts(self) -> dict[str, dict[str, float] | None]:
        parts: dict[str, dict[str, float] | None] = {}
        for name in PARTS:
            values = [getattr(timing, name) for timing in self.timings]
            parts[name] = None if None in values else spread([value / self.passes for value in values])
        return parts


def rotated(methods: Sequence[T], round_index: int) -> list[T]:
    """Return `methods` in the order of one round; the first one changes from round to round."""
    first = round_index % len(methods)
    return [*methods[first:], *methods[:first]]


def whole_batches(passes: int, batch: int) -> int:
    """Round `passes` up to a multiple of `batch`."""
    return -(-passes // batch) * batch
