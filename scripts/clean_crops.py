"""Makes clean crops for the start weights: parts of photographs, and contents that are rare in photographs.

A network that was trained on photographs alone has not learnt channels that are independent of each other, fully
saturated colours or printed lines, and its predictions of them need not be images at all. So some of the crops
imitate micrographs with a dye in each channel, prints and screens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Photograph = NDArray[np.uint8]
Crop = NDArray[np.float32]
CropFunction = Callable[[list[Photograph], int, np.random.Generator], Crop]

LARGEST_BLUR = 1.3
"""Largest standard deviation of the Gaussian blur, in pixels."""


def load_photographs(folders: list[Path], parts: tuple[int, ...] = (1, 2)) -> list[Photograph]:
    """All photographs of the folders as uint8 (3, H, W), once for each entry of `parts`.

    Args:
        folders: folders of .png files.
        parts: divisors of the size: 1 for whole photographs, 2 for half the size, at which their own noise is gone.

    Raises:
        SystemExit: there is no photograph.
    """
    photographs = []
    for path in sorted(p for folder in folders for p in folder.glob("*.png")):
        image = Image.open(path).convert("RGB")
        for part in parts:
            small = image.reduce(part) if part > 1 else image
            photographs.append(np.asarray(small, np.uint8).transpose(2, 0, 1))
    if not photographs:
        raise SystemExit(f"no .png photographs in {', '.join(map(str, folders))}")
    return photographs


def sample_clean(photographs: list[Photograph], size: int, rng: np.random.Generator) -> Crop:
    """A random crop (3, size, size) in [0, 1], of a kind drawn by `CROP_SHARES`."""
    kind = rng.choice(len(CROP_SHARES), p=list(CROP_SHARES.values()))
    crop = list(CROP_SHARES)[kind](photographs, size, rng)
    return np.ascontiguousarray(np.clip(crop, 0, 1), np.float32)


def as_it_is(photographs: list[Photograph], size: int, rng: np.random.Generator) -> Crop:
    """A part of a photograph, randomly mirrored and rotated.

    It is the one with more texture of two candidates, as the network learns little from flat crops.
    """
    best, best_texture = None, -1.0
    for _ in range(2):
        photograph = photographs[rng.integers(len(photographs))]
        _, height, width = photograph.shape
        if min(height, width) < size:
            continue
        top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
        crop = photograph[:, top : top + size, left : left + size]
        texture = float(np.abs(np.diff(crop.astype(np.int16), axis=2)).mean())
        if texture > best_texture:
            best, best_texture = crop, texture
    if best is None:
        return as_it_is(photographs, size, rng)
    crop = np.rot90(best, rng.integers(4), (1, 2))
    if rng.random() < 0.5:
        crop = crop[:, :, ::-1]
    return crop.astype(np.float32) / 255


def recoloured(photographs: list[Photograph], size: int, rng: np.random.Generator) -> Crop:
    """A part of a photograph with channels permuted and contrast lowered, sometimes inverted."""
    clean = other_colours(as_it_is(photographs, size, rng), rng)
    return 1 - clean if rng.random() < 0.2 else clean


def other_colours(clean: Crop, rng: np.random.Generator) -> Crop:
    """`clean` with channels permuted and contrast lowered."""
    clean = clean[rng.permutation(clean.shape[0])]
    low, high = sorted(rng.uniform(0, 1, 2))
    return low + clean * (high - low) if high - low > 0.2 else clean


def soft(small: list[Photograph], size: int, rng: np.random.Generator) -> Crop:
    """A part of a reduced photograph, blurred, and in half of the cases in other colours.

    If photographs with grain are the clean images, the network learns to keep grain. A reduced photograph has no
    grain, but it is sharper than a camera's image, which is interpolated between the pixels of the sensor. Hence blur.
    """
    while True:
        photograph = small[rng.integers(len(small))]
        _, height, width = photograph.shape
        if min(height, width) >= size:
            break
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    crop = np.rot90(photograph[:, top : top + size, left : left + size], rng.integers(4), (1, 2))
    blur = rng.uniform(0, LARGEST_BLUR)
    clean = gaussian_filter(crop.astype(np.float32) / 255, (0, blur, blur))
    return np.ascontiguousarray(other_colours(clean, rng) if rng.random() < 0.5 else clean, np.float32)


def stained(photographs: list[Photograph], size: int, rng: np.random.Generator) -> Crop:
    """Independent channels, some of them dark, on black or on white."""
    parts = [as_it_is(photographs, size, rng).mean(0) for _ in photographs[0]]
    gains = rng.uniform(0.3, 1, len(parts)) * (rng.random(len(parts)) < 0.75)
    clean = np.stack(parts) * gains[:, None, None]
    return (1 - clean if rng.random() < 0.2 else clean).astype(np.float32)


def saturated(photographs: list[Photograph], size: int, rng: np.random.Generator) -> Crop:
    """Contrast so high that much is cut off, until only two levels remain; in each channel alone, or in all alike."""
    clean = as_it_is(photographs, size, rng)
    gain = np.exp(rng.uniform(np.log(1.5), np.log(30)))
    levels = np.quantile(clean, rng.uniform(0.2, 0.8), axis=(1, 2), keepdims=True)
    if rng.random() < 0.5:
        levels = levels.mean()
    return (0.5 + gain * (clean - levels)).astype(np.float32)


def tinted(photographs: list[Photograph], size: int, rng: np.random.Generator) -> Crop:
    """The brightness of a photograph, mapped to a gradient from one colour to another."""
    brightness = as_it_is(photographs, size, rng).mean(0)
    return between_colours(brightness, len(photographs[0]), rng)


def pattern(photographs: list[Photograph], size: int, rng: np.random.Generator) -> Crop:
    """Stripes, checks and spots with hard or soft edges, in two colours, sometimes over a photograph."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    waves = []
    for _ in range(2):
        period = np.exp(rng.uniform(np.log(2), np.log(2 * size)))
        angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
        phase = 2 * np.pi * ((x * np.cos(angle) + y * np.sin(angle)) / period + rng.random())
        waves.append(np.sin(phase))
    wave = waves[0] if rng.random() < 0.5 else waves[0] * waves[1]
    hardness = np.exp(rng.uniform(0, np.log(100)))
    amount = np.clip(0.5 + hardness * (wave - rng.uniform(-0.5, 0.5)), 0, 1)
    clean = between_colours(amount, len(photographs[0]), rng)
    return np.where(amount > 0.5, clean, as_it_is(photographs, size, rng)) if rng.random() < 0.3 else clean


def between_colours(amount: NDArray[np.floating], channels: int, rng: np.random.Generator) -> Crop:
    """`amount` (H, W) in [0, 1], mapped to a gradient between two colours; half of the colours have only 0 and 1."""
    first, second = (
        rng.integers(0, 2, channels) if rng.random() < 0.5 else rng.uniform(0, 1, channels) for _ in range(2)
    )
    return np.asarray(first[:, None, None] + amount * (second - first)[:, None, None], np.float32)


CROP_SHARES: dict[CropFunction, float] = {
    as_it_is: 0.43,
    recoloured: 0.42,
    stained: 0.05,
    saturated: 0.05,
    tinted: 0.02,
    pattern: 0.03,
}
"""Share of the crops that each function makes."""
