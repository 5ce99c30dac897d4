"""The arithmetic of a benchmark: from seconds of repeated rounds to the figures of one case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from self2self.bench.measure import spread

PLAIN = "plain"
"""What the plain PyTorch loop is called where engines are named."""
PARTS = ("masks", "copies", "compute", "reduction")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timing:
    """What one case took in one round.

    Attributes:
        seconds: wall clock of all its passes.
        masks, reduction: the parts outside the engine.
        copies: masks into the engine and predictions out of it; None where that cannot be told from computing.
        compute: the rest of the engine's time.
    """

    seconds: float
    masks: float = 0.0
    copies: float | None = None
    compute: float = 0.0
    reduction: float = 0.0


@dataclass(slots=True)
class BenchmarkCase:
    """One line of the result: an engine at one size with one batch.

    Attributes:
        engine: `--engine` name, or `PLAIN`.
        provider: what really ran.
        precision: of the model's inside.
        batch: passes a run.
        size: (height, width) in pixels.
        passes: of each round.
        prepare_seconds: until the engine was loaded; None for the plain loop, which has nothing to prepare.
        memory: from `memory.measure_memory`; None where it was not measured.
        timings: one for each round.
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
        """The figures of this case.

        Args:
            plain: the plain loop at the same size, in the same rounds.
            gflop: operations of one pass, in 10^9.
            peak_gflops: GFLOP/s of the machine's matrix product; None where that says nothing of the engine.
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
            # Within a round, so that drift of the machine meets both sides.
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
    """`methods` in the order of one round: each starts in turn, so that none always runs first."""
    first = round_index % len(methods)
    return [*methods[first:], *methods[:first]]


def whole_batches(passes: int, batch: int) -> int:
    """At least `passes`, in runs of exactly `batch`."""
    return -(-passes // batch) * batch
