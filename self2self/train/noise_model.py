"""The noise of one image, to make it again: how strong it is at each brightness, how coarse, and in which colours.

What a network removed from an image is not its noise: of noise that neighbours share, it takes the coarse part for the
image and leaves it. But what the same network removes from an image whose noise is known can be measured. So the model
here is the one whose noise the network would have removed just so much of, in each frequency and at each brightness: it
is changed until what the network removes from a simulated image looks like what it removed from the real one
("indirect inference", Gouriéroux, Monfort and Renault 1993). It is found with no clean image, and not in flat parts
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from self2self.imaging.noise import robust_scale
from self2self.imaging.noise_curve import by_brightness

FloatArray = NDArray[np.float32]
Estimate = Callable[[FloatArray, int], FloatArray]
"""A noisy image (C, H, W) in [0, 1], and a seed for what is random about it, to the image without noise."""

BLOCK_SIDE = 32
"""Side of the blocks in which the spectrum is measured, in pixels: coarser noise is not told from the image."""
STRIDE = 8
FLATTEST = 0.6
"""Share of the blocks that is looked at: where the first result changes least."""
LEAST_BLOCKS = 24
MOST_CUT_OFF = 0.02
"""Share of values at an end of the range up to which a block counts."""
LEAST_PIXELS = 64
"""Of each brightness at which the noise is measured, at least."""
LEAST_DEVIATION = 0.2
"""Of the whole image's: what is less was cut off, or is not known."""
TRIALS = 3
"""Simulations; after as many again, frequencies of which the network removes next to nothing begin to run away."""
MOST_CHANGE = 2.0
"""By which one trial may change the variance of a frequency."""
MOST_LEVEL_CHANGE = 1.4


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Gaussian noise with a spectrum, and with a strength that depends on the brightness.

    Attributes:
        axes: (C, C), orthonormal; columns are the colours whose noises are independent of one another.
        spectrum: (C, b, b), of each of them: variance by frequency as of `np.fft.fft2`, over b², of noise that
            is divided by `deviation`.
        brightness: (C, levels), ascending, in [0, 1].
        deviation: (C, levels), standard deviation of the noise at each brightness, but for a common factor.
    """

    axes: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    brightness: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def simulate(self, image: FloatArray, rng: np.random.Generator) -> FloatArray:
        """`image` (C, H, W), at least b a side, with noise, cut off at the ends of the range [0, 1]."""
        _, height, width = image.shape
        kernels = np.zeros((len(self.spectrum), height, width))
        side = self.spectrum.shape[1]
        centred = np.fft.fftshift(np.fft.ifft2(np.sqrt(self.spectrum)).real, axes=(1, 2))
        kernels[:, :side, :side] = centred
        white = rng.standard_normal(kernels.shape)
        coloured = np.fft.irfft2(np.fft.rfft2(white) * np.fft.rfft2(kernels), s=(height, width))
        noise = np.einsum("ab,bij->aij", self.axes, coloured)
        return np.asarray(np.clip(image + noise * _at(image, self.brightness, self.deviation), 0, 1), np.float32)


def noise_model(noisy: list[FloatArray], first: list[FloatArray], estimate: Estimate, seed: int) -> NoiseModel:
    """The noise of an image, or of parts of it.

    Args:
        noisy: parts of the image, float32 (C, H, W) in [0, 1], all of one shape.
        first: the same without noise, as good as is known.
        estimate: what the network makes of a part.
        seed: of what is simulated.
    """
    rng = np.random.default_rng(seed)
    removed = [part - estimate(part, 0) for part in noisy]
    view = _View(noisy, first, removed)
    levels = view.levels(removed)
    spectrum = view.spectrum(removed)
    # No noise has more power than the image that it is part of.
    most = np.maximum(view.spectrum(noisy), spectrum)
    model = NoiseModel(view.axes, spectrum, view.brightness, levels)
    for trial in range(1, TRIALS + 1):
        simulated = [model.simulate(part, rng) for part in first]
        removed_again = [part - estimate(part, trial) for part in simulated]
        change = _smooth(_ratio(spectrum, view.spectrum(removed_again), MOST_CHANGE))
        level_change = _ratio(levels, view.levels(removed_again), MOST_LEVEL_CHANGE)
        deviation = model.deviation * level_change
        # The spectrum has the strength as a whole.
        deviation *= view.strength(model.deviation) / max(view.strength(deviation), 1e-12)
        model = replace(model, spectrum=np.minimum(model.spectrum * change, most), deviation=deviation)
    return model


def _at(image: FloatArray, brightness: NDArray[np.float64], deviation: NDArray[np.float64]) -> FloatArray:
    """`deviation` at the `brightness` of every value of `image` (C, H, W)."""
    rows = zip(image, brightness, deviation, strict=True)
    return np.stack([np.interp(channel, *curve) for channel, *curve in rows]).astype(np.float32)


def _ratio(wanted: NDArray[np.float64], got: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """`wanted` over `got`, between 1 / `most` and `most`; 1 where there is neither."""
    ratio = np.ones_like(wanted)
    np.divide(wanted, got, out=ratio, where=got > 0)
    return np.clip(ratio, 1 / most, most)


def _smooth(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over 3x3 frequencies, which go round."""
    for axis in (1, 2):
        change = (np.roll(change, 1, axis) + change + np.roll(change, -1, axis)) / 3
    return change


class _View:
    """Where an image is looked at: the same blocks and pixels for what was removed and for what is simulated."""

    def __init__(self, noisy: list[FloatArray], first: list[FloatArray], removed: list[FloatArray]) -> None:
        self._side = min(BLOCK_SIDE, *noisy[0].shape[1:])
        self._plane = _plane_of(self._side)
        window = np.hanning(self._side + 2)[1:-1]
        taper = np.outer(window, window)
        self._taper = taper / np.sqrt(np.mean(np.square(taper)))
        channels = [np.concatenate([part[index].ravel() for part in first]) for index in range(len(first[0]))]
        self._groups = [by_brightness(values, LEAST_PIXELS) for values in channels]
        self.brightness = np.array(
            [
                [float(values[group].mean(dtype=np.float64)) for group in groups]
                for values, groups in zip(channels, self._groups, strict=True)
            ]
        )
        self._first = first
        self._scales = np.maximum(self._strengths(self.levels(removed)), 1e-6)
        blocks = self._flattened(first)
        energy = np.square(blocks).mean((-2, -1)).sum(0)
        values = np.concatenate([self._blocks(part) for part in noisy], axis=1)
        cut_off = ((values <= 0) | (values >= 1)).mean((-2, -1)).max(0) > MOST_CUT_OFF
        energy[cut_off] = np.inf
        usable = int(np.count_nonzero(~cut_off)) or energy.size
        count = min(energy.size, max(LEAST_BLOCKS, int(FLATTEST * usable)))
        self._chosen = np.argsort(energy, kind="stable")[:count]
        chosen = self._flattened(removed)[:, self._chosen]
        self.axes = np.linalg.eigh(np.einsum("anij,bnij->ab", chosen, chosen))[1]

    def levels(self, removed: list[FloatArray]) -> NDArray[np.float64]:
        """Standard deviation of `removed` by channel and brightness, without outliers."""
        rows = []
        for channel, groups in enumerate(self._groups):
            values = np.concatenate([part[channel].ravel() for part in removed]).astype(np.float64)
            least = LEAST_DEVIATION * robust_scale(values)
            rows.append([max(robust_scale(values[group]), least) for group in groups])
        return np.array(rows)

    def spectrum(self, parts: list[FloatArray]) -> NDArray[np.float64]:
        """Mean periodogram of the chosen blocks along `axes`, each less its mean and slope and of even strength."""
        blocks = np.einsum("ab,anij->bnij", self.axes, self._flattened(parts)[:, self._chosen]) * self._taper
        return np.asarray(np.square(np.abs(np.fft.fft2(blocks))).mean(1) / self._side**2)

    def strength(self, deviation: NDArray[np.float64]) -> float:
        """Root mean square over the chosen blocks of what noise of such a `deviation` by brightness has there."""
        return float(np.sqrt(np.mean(np.square(self._strengths(deviation)[:, self._chosen]))))

    def _strengths(self, deviation: NDArray[np.float64]) -> FloatArray:
        strengths = [_at(part, self.brightness, deviation) for part in self._first]
        return np.concatenate([self._blocks(part).mean((-2, -1), keepdims=True) for part in strengths], axis=1)

    def _blocks(self, part: FloatArray) -> FloatArray:
        windows = sliding_window_view(part, (self._side, self._side), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
        return windows.reshape(len(part), -1, self._side, self._side)

    def _flattened(self, parts: list[FloatArray]) -> NDArray[np.float64]:
        blocks = np.concatenate([self._blocks(part) for part in parts], axis=1) / self._scales
        flat = blocks.reshape(*blocks.shape[:2], -1)
        return np.asarray(flat - (flat @ self._plane) @ self._plane.T).reshape(blocks.shape)


def _plane_of(side: int) -> NDArray[np.float64]:
    """An orthonormal basis (side², 3) of what a block's mean and slope can be."""
    y, x = np.mgrid[:side, :side] / side
    return np.linalg.qr(np.stack([np.ones_like(x), x, y], axis=-1).reshape(-1, 3))[0]
