"""Models the noise of one image, so that it can be simulated: strength by brightness, spectrum, and colours.

The difference between an image and a network's estimate of it is not the image's noise: the network leaves the coarse
part of correlated noise in the estimate. But for simulated noise one can measure how much of it the network removes.
So the model is fitted by "indirect inference" (Gouriéroux, Monfort and Renault 1993): it is changed until the network
removes from a simulated image, at each frequency and each brightness, as much as it removed from the real image. This
needs no clean image, and it is not limited to flat parts.
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
"""Maps a noisy image (C, H, W) in [0, 1], and the number of a trial, which selects the masks, to an estimate of the
clean image."""

BLOCK_SIDE = 32
"""Side of the blocks in which the spectrum is measured, in pixels; coarser noise cannot be separated from the image."""
STRIDE = 8
"""Distance between blocks, in pixels."""
FLATTEST_SHARE = 0.6
"""Share of the usable blocks that are measured: those in which the first estimate varies least."""
MINIMUM_BLOCKS = 24
"""Smallest number of blocks that are measured, where the image has as many."""
MAXIMUM_CUT_OFF_SHARE = 0.02
"""Largest share of values at an end of the range with which a block is usable."""
MINIMUM_PIXELS_OF_LEVEL = 64
"""Smallest number of pixels of a brightness at which the noise is measured."""
MINIMUM_RELATIVE_DEVIATION = 0.2
"""Smallest standard deviation at a brightness, over that of the whole image: less was cut off, or is not known."""
ROUNDS = 3
"""Number of simulations. After three more, frequencies of which the network removes almost nothing begin to diverge."""
LARGEST_SPECTRUM_CHANGE = 2.0
"""Largest factor by which one round changes the variance of a frequency."""
LARGEST_LEVEL_CHANGE = 1.4
"""Largest factor by which one round changes the standard deviation at a brightness."""


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Gaussian noise with a spectrum, and with a strength that depends on the brightness.

    Attributes:
        axes: (C, C), orthonormal; its columns are colours whose noises are independent of each other.
        spectrum: (C, b, b), for each of these colours the variance by frequency, as `np.fft.fft2` orders them, over b²,
            of the noise divided by `deviation`.
        brightness: (C, levels), ascending, in [0, 1].
        deviation: (C, levels), standard deviation of the noise at each brightness, up to a common factor.
    """

    axes: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    brightness: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def simulate(self, image: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Add noise to an image and clip the sum to [0, 1].

        Args:
            image: float32 (C, H, W) in [0, 1]; H and W of at least b.
            rng: source of randomness.

        Returns:
            float32 (C, H, W).
        """
        _, height, width = image.shape
        kernels = np.zeros((len(self.spectrum), height, width))
        side = self.spectrum.shape[1]
        centred = np.fft.fftshift(np.fft.ifft2(np.sqrt(self.spectrum)).real, axes=(1, 2))
        kernels[:, :side, :side] = centred
        white = rng.standard_normal(kernels.shape)
        coloured = np.fft.irfft2(np.fft.rfft2(white) * np.fft.rfft2(kernels), s=(height, width))
        noise = np.einsum("ab,bij->aij", self.axes, coloured)
        return np.asarray(
            np.clip(image + noise * _deviation_at(image, self.brightness, self.deviation), 0, 1), np.float32
        )


def noise_model(noisy: list[FloatArray], estimates: list[FloatArray], estimate: Estimate, seed: int) -> NoiseModel:
    """Fit a model to the noise of an image, or of parts of it.

    Args:
        noisy: parts of the image, float32 (C, H, W) in [0, 1], all of one shape.
        estimates: the best estimates of the clean parts, of the same type and shape.
        estimate: the network's estimate of a part; it decides how much noise is removed.
        seed: seed of the simulated noise.
    """
    rng = np.random.default_rng(seed)
    removed = [part - estimate(part, 0) for part in noisy]
    meter = _NoiseMeter(noisy, estimates, removed)
    levels = meter.levels(removed)
    spectrum = meter.spectrum(removed)
    # The noise cannot have more power than the noisy image.
    largest_spectrum = np.maximum(meter.spectrum(noisy), spectrum)
    model = NoiseModel(meter.axes, spectrum, meter.brightness, levels)
    for trial in range(1, ROUNDS + 1):
        simulated = [model.simulate(part, rng) for part in estimates]
        removed_again = [part - estimate(part, trial) for part in simulated]
        change = _smooth(_limited_ratio(spectrum, meter.spectrum(removed_again), LARGEST_SPECTRUM_CHANGE))
        level_change = _limited_ratio(levels, meter.levels(removed_again), LARGEST_LEVEL_CHANGE)
        deviation = model.deviation * level_change
        # The spectrum carries the overall strength, so the deviations keep theirs.
        deviation *= meter.strength(model.deviation) / max(meter.strength(deviation), 1e-12)
        model = replace(model, spectrum=np.minimum(model.spectrum * change, largest_spectrum), deviation=deviation)
    return model


def _deviation_at(image: FloatArray, brightness: NDArray[np.float64], deviation: NDArray[np.float64]) -> FloatArray:
    """`deviation`, given at `brightness`, interpolated at every value of `image` (C, H, W)."""
    rows = zip(image, brightness, deviation, strict=True)
    return np.stack([np.interp(channel, *curve) for channel, *curve in rows]).astype(np.float32)


def _limited_ratio(target: NDArray[np.float64], got: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """`target` over `got`, clipped to 1 / `largest` and `largest`; 1 where `got` is 0."""
    ratio = np.ones_like(target)
    np.divide(target, got, out=ratio, where=got > 0)
    return np.clip(ratio, 1 / largest, largest)


def _smooth(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over 3x3 frequencies, which are periodic."""
    for axis in (1, 2):
        change = (np.roll(change, 1, axis) + change + np.roll(change, -1, axis)) / 3
    return change


class _NoiseMeter:
    """Measures noise in blocks and at brightnesses of an image: the same ones for the real and for simulated images.

    Attributes:
        axes: (C, C), orthonormal; its columns are colours whose noises are uncorrelated.
        brightness: (C, levels), mean brightness of each level, ascending.
    """

    def __init__(self, noisy: list[FloatArray], estimates: list[FloatArray], removed: list[FloatArray]) -> None:
        self._side = min(BLOCK_SIDE, *noisy[0].shape[1:])
        self._plane = _plane_basis(self._side)
        window = np.hanning(self._side + 2)[1:-1]
        taper = np.outer(window, window)
        self._taper = taper / np.sqrt(np.mean(np.square(taper)))
        channels = [np.concatenate([part[index].ravel() for part in estimates]) for index in range(len(estimates[0]))]
        self._groups = [by_brightness(values, MINIMUM_PIXELS_OF_LEVEL) for values in channels]
        self.brightness = np.array(
            [
                [float(values[group].mean(dtype=np.float64)) for group in groups]
                for values, groups in zip(channels, self._groups, strict=True)
            ]
        )
        self._estimates = estimates
        self._scales = np.maximum(self._block_deviations(self.levels(removed)), 1e-6)
        self._chosen = self._flattest_blocks(noisy)
        chosen = self._detrended_blocks(removed)[:, self._chosen]
        self.axes = np.linalg.eigh(np.einsum("anij,bnij->ab", chosen, chosen))[1]

    def _flattest_blocks(self, noisy: list[FloatArray]) -> NDArray[np.intp]:
        """The indices of the blocks to measure: those without much cut off in which the estimates vary least."""
        energy = np.square(self._detrended_blocks(self._estimates)).mean((-2, -1)).sum(0)
        values = np.concatenate([self._blocks(part) for part in noisy], axis=1)
        cut_off = ((values <= 0) | (values >= 1)).mean((-2, -1)).max(0) > MAXIMUM_CUT_OFF_SHARE
        energy[cut_off] = np.inf
        usable = int(np.count_nonzero(~cut_off)) or energy.size
        count = min(energy.size, max(MINIMUM_BLOCKS, int(FLATTEST_SHARE * usable)))
        return np.argsort(energy, kind="stable")[:count]

    def levels(self, removed: list[FloatArray]) -> NDArray[np.float64]:
        """Robust standard deviation of `removed` by channel and brightness, (C, levels)."""
        rows = []
        for channel, groups in enumerate(self._groups):
            values = np.concatenate([part[channel].ravel() for part in removed]).astype(np.float64)
            minimum = MINIMUM_RELATIVE_DEVIATION * robust_scale(values)
            rows.append([max(robust_scale(values[group]), minimum) for group in groups])
        return np.array(rows)

    def spectrum(self, parts: list[FloatArray]) -> NDArray[np.float64]:
        """Mean periodogram (C, b, b) of the chosen blocks along `axes`, detrended and of equal strength."""
        blocks = np.einsum("ab,anij->bnij", self.axes, self._detrended_blocks(parts)[:, self._chosen]) * self._taper
        return np.asarray(np.square(np.abs(np.fft.fft2(blocks))).mean(1) / self._side**2)

    def strength(self, deviation: NDArray[np.float64]) -> float:
        """Root mean square over the chosen blocks of noise with this `deviation` by brightness."""
        return float(np.sqrt(np.mean(np.square(self._block_deviations(deviation)[:, self._chosen]))))

    def _block_deviations(self, deviation: NDArray[np.float64]) -> FloatArray:
        """Mean standard deviation in each block, (C, blocks, 1, 1), of noise with this `deviation` by brightness."""
        deviations = [_deviation_at(part, self.brightness, deviation) for part in self._estimates]
        return np.concatenate([self._blocks(part).mean((-2, -1), keepdims=True) for part in deviations], axis=1)

    def _blocks(self, part: FloatArray) -> FloatArray:
        """The overlapping blocks of a part, (C, blocks, b, b)."""
        windows = sliding_window_view(part, (self._side, self._side), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
        return windows.reshape(len(part), -1, self._side, self._side)

    def _detrended_blocks(self, parts: list[FloatArray]) -> NDArray[np.float64]:
        """The blocks of all parts, (C, blocks, b, b), over the noise's deviation there, without mean and slope."""
        blocks = np.concatenate([self._blocks(part) for part in parts], axis=1) / self._scales
        flat = blocks.reshape(*blocks.shape[:2], -1)
        return np.asarray(flat - (flat @ self._plane) @ self._plane.T).reshape(blocks.shape)


def _plane_basis(side: int) -> NDArray[np.float64]:
    """An orthonormal basis (side², 3) of the planes over a block: its mean and its slopes."""
    y, x = np.mgrid[:side, :side] / side
    return np.linalg.qr(np.stack([np.ones_like(x), x, y], axis=-1).reshape(-1, 3))[0]
