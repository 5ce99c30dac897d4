"""The protocols of `benchmarks.protocol`: which images, with which noise, and how their files are found.

- `SET-SIGMA`: white Gaussian noise of σ 15, 25 or 50 on whole photographs, neither clipped nor rounded, as papers have
  it. The noise of an image depends on nothing but its name and σ.
- `SET-SIGMA-clipped`: the same, clipped to black and white and rounded to 8 bits, as files have it. Where the data
  folder has such files they are taken.
- `SET-grey-SIGMA`, `SET-grey-SIGMA-clipped`: on the luma of colour photographs, rounded to 8 bits.
- `cbsd68-crops-SIGMA`: eight crops of 128x128 pixels of the files with noise, which `crops.json` names.
- `polyu`, `cc`, `sidd`, `fmd`: real noise; pairs of one exposure and the mean of many, or a clean block.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.make_pairs import CROP
from benchmarks.pairs import FloatArray, Pair, black_to_white, cut
from benchmarks.scores import luma
from benchmarks.sets import DataSet
from self2self.image_io import read_image

SIGMAS = (15, 25, 50)
COLOUR = ("cbsd68", "kodak24", "mcmaster")
GREY = ("bsd68", "set12")
REAL = ("polyu", "cc", "sidd", "fmd")
CLEAN_ENDS = (".mean", ".clean")


@dataclass(frozen=True, slots=True)
class Protocol:
    """Images of one data set with one noise.

    Attributes:
        name: on the command line.
        data_set: name in `sets.json`.
        sigma: of Gaussian noise that is made, in 8-bit grey levels; None for real noise.
        clipped: whether made noise is clipped and rounded to 8 bits.
        grey: whether the luma of colour photographs is taken.
        crops: whether the images are the squares of ``crops.json``.
    """

    name: str
    data_set: str
    sigma: int | None = None
    clipped: bool = False
    grey: bool = False
    crops: bool = False

    def cases(self, data: Path, data_set: DataSet, split: str) -> list[Case]:
        """All images of a split, in the order of their names.

        Args:
            data: folder of the evaluation images.
            data_set: with the splits.
            split: ``tuning``, ``validation`` or ``test``.

        Raises:
            SystemExit: a noisy image has no clean one.
        """
        files = data_set.divided(data)[split]
        if self.crops:
            return _crops(data, set(files), self.sigma or 0)
        if self.sigma is not None:
            clean = [path for path in files if path.parent.name in ("clean", self.data_set)]
            return [Case(path.stem, partial(self._made, path)) for path in clean]
        noisy = [path for path in files if path.parent.name == "noisy" or path.stem.endswith(".noisy")]
        return [Case(path.stem.removesuffix(".noisy"), partial(self._real, path, counterpart(path))) for path in noisy]

    def _made(self, path: Path) -> Pair:
        assert self.sigma is not None  # noqa: S101 - `cases` has asked
        clean = _read(path)
        stored = path.parents[1] / f"noise{self.sigma}" / path.name
        if self.clipped and not self.grey and path.parent.name == "clean" and stored.is_file():
            return Pair(path.stem, _read(stored), clean, self.sigma)
        if self.grey and len(clean) > 1:
            clean = np.asarray(np.rint(luma(clean) * 255) / 255, np.float32)[None]
        return with_noise(path.stem, clean, self.sigma, clipped=self.clipped)

    def _real(self, noisy: Path, clean: Path) -> Pair:
        image = read_image(noisy, whole_range=True)
        return Pair(
            noisy.stem.removesuffix(".noisy"),
            black_to_white(image),
            _read(clean),
            None,
            self.data_set == "fmd",
            image.dtype.name,
        )


@dataclass(frozen=True, slots=True)
class Case:
    """One image, which is read when it is needed.

    Attributes:
        name: what the rows of a result call it.
        read: gives the pair.
    """

    name: str
    read: Callable[[], Pair]

    def load(self, crop: int | None = None) -> Pair:
        """The pair, or its middle `crop` pixels a side; a side that is shorter stays as it is."""
        pair = replace(self.read(), name=self.name)
        if crop is None:
            return pair
        return replace(pair, noisy=middle(pair.noisy, crop), clean=middle(pair.clean, crop))


def middle(pixels: FloatArray, size: int) -> FloatArray:
    """The middle of (C, H, W), `size` pixels a side at most."""
    starts = [max(side - size, 0) // 2 for side in pixels.shape[1:]]
    rows, columns = (slice(start, start + size) for start in starts)
    return np.ascontiguousarray(pixels[:, rows, columns])


def with_noise(name: str, clean: FloatArray, sigma: float, *, clipped: bool) -> Pair:
    """White Gaussian noise on a clean image; the same for the same name and σ.

    Args:
        name: of the image.
        clean: (C, H, W) in [0, 1].
        sigma: in 8-bit grey levels.
        clipped: whether to clip to [0, 1] and round to 8 bits; otherwise values are floats beyond [0, 1].
    """
    rng = np.random.default_rng(zlib.crc32(f"{name} {sigma:g}".encode()))
    noisy = clean + rng.standard_normal(clean.shape) * (sigma / 255)
    if clipped:
        noisy = np.rint(np.clip(noisy, 0, 1) * 255) / 255
    return Pair(name, noisy.astype(np.float32), clean, sigma, dtype="uint8" if clipped else "float32")


def counterpart(noisy: Path) -> Path:
    """The clean image of a noisy one: the same name in a folder ``mean`` beside it, or another ending of the name.

    Raises:
        SystemExit: there is none.
    """
    if noisy.parent.name == "noisy":
        choices = [noisy.parents[1] / "mean" / noisy.name]
    else:
        choices = [noisy.with_name(noisy.stem.removesuffix(".noisy") + end + noisy.suffix) for end in CLEAN_ENDS]
    for path in choices:
        if path.is_file():
            return path
    raise SystemExit(f"{noisy.name} has no clean image beside it: {' or '.join(path.name for path in choices)}")


def _read(path: Path) -> FloatArray:
    return black_to_white(read_image(path, whole_range=True))


def _crops(data: Path, files: set[Path], sigma: int) -> list[Case]:
    def read(noisy: Path, clean: Path, crop: dict[str, int]) -> Pair:
        square = {**crop, "size": CROP}
        return Pair("", cut(_read(noisy), square), cut(_read(clean), square), sigma)

    cases = []
    for crop in json.loads((data / "crops.json").read_text())["crops"]:
        noisy, clean = (data / "cbsd68" / folder / crop["image"] for folder in (f"noise{sigma}", "clean"))
        if {noisy, clean} <= files:
            cases.append(Case(crop["name"], partial(read, noisy, clean, crop)))
    return cases


def _all_protocols() -> dict[str, Protocol]:
    found = []
    for sigma in SIGMAS:
        for clipped in (False, True):
            end = f"{sigma}-clipped" if clipped else f"{sigma}"
            for name in COLOUR:
                found.append(Protocol(f"{name}-{end}", name, sigma, clipped))
                found.append(Protocol(f"{name}-grey-{end}", name, sigma, clipped, grey=True))
            found += [Protocol(f"{name}-{end}", name, sigma, clipped) for name in GREY]
        found.append(Protocol(f"cbsd68-crops-{sigma}", "cbsd68", sigma, clipped=True, crops=True))
    found += [Protocol(name, name) for name in REAL]
    return {protocol.name: protocol for protocol in found}


PROTOCOLS = _all_protocols()
