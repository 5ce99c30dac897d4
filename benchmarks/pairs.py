"""Pairs of a noisy and a clean image that the benchmarks of quality share, and the scores against the clean one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from self2self.image_io import read_image
from self2self.metrics import psnr, ssim

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """One image to denoise, (C, H, W) float32 in [0, 1]."""

    name: str
    noisy: FloatArray
    clean: FloatArray
    sigma: float | None


def load_pairs(path: Path) -> list[Pair]:
    """All pairs of a list."""
    pairs = []
    for entry in json.loads(path.read_text()):
        noisy, clean = (read_image(path.parent / entry[key]).pixels for key in ("noisy", "clean"))
        if "size" in entry:
            rows = slice(entry["top"], entry["top"] + entry["size"])
            columns = slice(entry["left"], entry["left"] + entry["size"])
            noisy, clean = noisy[:, rows, columns], clean[:, rows, columns]
        pairs.append(Pair(entry["name"], noisy.copy(), clean, entry.get("sigma")))
    return pairs


def scores(result: FloatArray, clean: FloatArray) -> dict[str, float]:
    """PSNR and SSIM of a clamped result."""
    clamped = np.clip(result, 0, 1)
    return {"psnr": round(psnr(clamped, clean), 3), "ssim": round(ssim(clamped, clean), 4)}
