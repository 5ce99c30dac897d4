"""What is to be said of a denoised volume."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from self2self.jobs.volumes.group_plan import GroupPlan
from self2self.jobs.wording import seconds_text
from self2self.machine.system import peak_memory_bytes


@dataclass(frozen=True, slots=True)
class VolumeResult:
    """A denoised volume, or the blocks of it that this command was to make.

    Attributes:
        source, output: the noisy volume and the result.
        axes: a letter for each axis.
        shape: of the array.
        groups: what was decided for each group of channels.
        records: the records of all finished blocks.
        blocks: number of blocks of the volume.
        kept: number of blocks that earlier runs had finished.
        seconds: total time.
        fit_seconds: time of all fits; 0 if an earlier run made them.
        uncertainty: None; a volume has no map of it.
    """

    source: Path
    output: Path
    axes: str
    shape: tuple[int, ...]
    groups: list[GroupPlan]
    records: list[dict[str, Any]]
    blocks: int
    kept: int
    seconds: float
    fit_seconds: float = 0.0
    uncertainty: Path | None = field(default=None)

    def without_pixels(self) -> VolumeResult:
        """The same: there are no arrays."""
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the result is written: all blocks are done."""
        return len(self.records) == self.blocks

    @property
    def residual_deviation(self) -> float | None:
        """Standard deviation of what was removed, in 8-bit grey levels; None if nothing was."""
        known = [record["residual_deviation"] for record in self.records if "residual_deviation" in record]
        return math.sqrt(sum(value**2 for value in known) / len(known)) if known else None

    @property
    def summary(self) -> str:
        """One line for anyone: the blocks, the noise, and the time."""
        kept = f", {self.kept} of them by earlier runs" if self.kept else ""
        found = [f"{plan.sigma:.1f}" for plan in self.groups if plan.sigma is not None]
        removed = self.residual_deviation
        parts = [
            f"{len(self.records)} of {self.blocks} blocks{kept}" if not self.is_whole else f"{self.blocks} blocks{kept}"
        ]
        if found:
            parts.append(f"noise found: sigma {', '.join(found)}")
        if removed is not None:
            parts.append(f"removed: {removed:.1f}")
        parts.append(seconds_text(self.seconds))
        return "; ".join(parts)

    @property
    def way(self) -> str:
        """How the blocks were made."""
        run = [record for record in self.records if record["passes"]]
        plain = sum(record["plain"] for record in run)
        ways = [f"a single pass without dropout over {plain} blocks"] if plain else []
        if plain < len(run):
            ways.append(f"{sum(record['passes'] for record in run if not record['plain'])} passes")
        if len(run) < len(self.records):
            ways.append(f"{len(self.records) - len(run)} blocks copied")
        providers = sorted({record["provider"] for record in run})
        hosts = sorted({record["host"] for record in self.records})
        with_what = f", with {', '.join(providers)}" if providers else ""
        return f"{' and '.join(ways)}{with_what}, on {', '.join(hosts)}"

    def to_json(self) -> dict[str, Any]:
        """The document that `denoise --json` prints for a volume."""
        run = [record for record in self.records if record["passes"]]
        return {
            "image": str(self.source),
            "output": str(self.output),
            "axes": self.axes,
            "shape": list(self.shape),
            "engine": run[0]["engine"] if run else "none",
            "provider": run[0]["provider"] if run else "no engine",
            "blocks": self.blocks,
            "blocks_done": len(self.records),
            "blocks_kept": self.kept,
            "passes": sum(record["passes"] for record in self.records),
            "groups": [
                {
                    "channels": list(plan.channels),
                    "sigma": plan.sigma,
                    "range": list(_ends(plan)),
                    "page": plan.page,
                    "model": plan.model,
                }
                for plan in self.groups
            ],
            "residual": {"standard_deviation": self.residual_deviation},
            "hosts": sorted({record["host"] for record in self.records}),
            "seconds": {"fit": round(self.fit_seconds, 3), "total": round(self.seconds, 3)},
            "peak_memory_bytes": peak_memory_bytes(),
        }


def _ends(plan: GroupPlan) -> tuple[float, float]:
    value_range = plan.scale.value_range
    return value_range.offset, value_range.offset + value_range.scale
