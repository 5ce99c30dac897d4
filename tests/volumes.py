"""Volumes for tests: a clean scene with noise, as OME-Zarr, plain zarr or HDF5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from self2self.jobs import FitOptions
from self2self.runtime.ensemble.options import EnsembleOptions

FITTING = FitOptions(steps=1, neighbours=0, init="scratch")
"""A network without start weights, which is there at once. Its results are no images, but bits can be compared."""
PASSES = EnsembleOptions(passes=1, engine="ort", batch=1)
FIT_OPTIONS = ["--steps", "1", "--init", "scratch", "--neighbours", "0"]
OPTIONS = [*FIT_OPTIONS, "--passes", "1", "--engine", "ort", "--batch", "1", "--quiet"]
AXIS_TYPES = {"t": "time", "c": "channel"}


def values(shape: tuple[int, ...], seed: int = 0, noise: float = 300) -> np.ndarray:
    """Noisy uint16 values of any shape, whose last axes are rows and columns."""
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    clean = 4000 + 2500 * np.sin(columns / 17) * np.cos(rows / 23)
    noisy = clean + np.random.default_rng(seed).normal(0, noise, shape)
    return np.clip(np.round(noisy), 0, 65535).astype(np.uint16)


def write_ome_zarr(
    path: Path,
    array: np.ndarray,
    axes: str = "zyx",
    *,
    version: str = "0.5",
    chunks: tuple[int, ...] | None = None,
    shards: tuple[int, ...] | None = None,
    levels: int = 1,
) -> Path:
    """Write `array` as OME-Zarr of `version`; each further level has half of the rows and columns."""
    zarr = pytest.importorskip("zarr", reason="pip install 'self2self[zarr]'")
    old = version == "0.4"
    group = zarr.create_group(str(path), zarr_format=2 if old else 3)
    datasets = []
    for level in range(levels):
        scaled = array[..., :: 2**level, :: 2**level]
        options: dict[str, Any] = {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if old else {}
        if not old:
            options = {"dimension_names": list(axes), "shards": shards}
        group.create_array(
            f"s{level}",
            shape=scaled.shape,
            dtype=array.dtype,
            chunks=chunks or (1,) * (array.ndim - 2) + (64, 64),
            **options,
        )[...] = scaled
        scale = [1.0] * (array.ndim - 2) + [0.5 * 2**level] * 2
        datasets.append({"path": f"s{level}", "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    multiscale: dict[str, Any] = {
        "name": "scene",
        "axes": [{"name": letter, "type": AXIS_TYPES.get(letter, "space")} for letter in axes],
        "datasets": datasets,
    }
    omero = {"channels": [{"label": "GFP", "color": "00FF00", "window": {"start": 0, "end": 9, "min": 0, "max": 9}}]}
    if old:
        group.attrs.update({"multiscales": [{**multiscale, "version": "0.4"}], "omero": omero})
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale], "omero": omero}
    return path
