"""Draws the masks and the noise of a pass as a pure function of seed, pass and sample.

The streams are those of `model.masks`. Every sample of a batch has a stream of its own, so a sample's masks do not
depend on how samples are put together into batches. Passes are independent: balanced masks, as the denoiser has them,
would bias the variance, and here the variance is the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.live.contract import KEEP_LEVELS, LiveContract, LiveMask
from self2self.model.masks import Stream, bit_generator, random_integers

AnyArray = NDArray[Any]

_ALL_SAMPLES = 0
"""Number of the stream of draws that all samples share; sample i has stream i + 1."""
_UNIFORM_BITS = 23
"""Bits of a uniform number. Midpoints of 2**23 intervals are float32 numbers above 0 and below 1, so that neither a
logarithm of it nor of 1 minus it is infinite."""


def axes_of(places: Mapping[str, tuple[str, int]], inputs: Mapping[str, AnyArray]) -> dict[str, int]:
    """Length of each free axis in `inputs`; `places` as `LiveContract.axes`."""
    return {axis: inputs[name].shape[index] for axis, (name, index) in places.items()}


def draw_pass(
    contract: LiveContract,
    axes: Mapping[str, int],
    seed: int,
    index: int,
    *,
    first_sample: int = 0,
    shared: bool = False,
) -> dict[str, AnyArray]:
    """Draw all masks and noise of one pass over a batch.

    Args:
        contract: says what is drawn.
        axes: length of each free axis; that of the batch is the number of samples.
        seed: from 0 to 2**32 - 1.
        index: of the pass.
        first_sample: index of the first sample of the batch among all samples.
        shared: whether all samples have the masks of sample 0.

    Returns:
        name to array: bool for masks, float32 for noise.

    Raises:
        ValueError: a size in the contract is wrong.
    """
    samples = axes[contract.batch] if contract.batch is not None else 1
    common = [mask for mask in contract.masks if not mask.batched]
    drawn = _draw(common, axes, bit_generator(seed, Stream.LIVE, index, _ALL_SAMPLES))
    batched = [mask for mask in contract.masks if mask.batched]
    if contract.batch is None or not batched:
        return drawn
    one = {**axes, contract.batch: 1}
    numbers = [0] if shared else range(first_sample, first_sample + samples)
    rows = [_draw(batched, one, bit_generator(seed, Stream.LIVE, index, number + 1)) for number in numbers]
    for mask in batched:
        parts = [row[mask.name] for row in rows]
        drawn[mask.name] = np.concatenate(parts * samples if shared else parts)
    return drawn


def _draw(masks: list[LiveMask], axes: Mapping[str, int], bits: np.random.SFC64) -> dict[str, AnyArray]:
    """Draw `masks` one after the other from one stream."""
    return {mask.name: _values(mask, mask.shape(axes), bits) for mask in masks}


def _values(mask: LiveMask, shape: tuple[int, ...], bits: np.random.SFC64) -> AnyArray:
    count = int(np.prod(shape))
    if mask.keep_count is not None:
        assert 0 < mask.keep_count < KEEP_LEVELS  # noqa: S101 - checked when the contract was read
        kept: AnyArray = np.less(random_integers(bits, count, "<u2"), np.uint16(mask.keep_count))
        return kept.reshape(shape)
    if mask.draw == "uniform":
        return _uniform(bits, count).astype(np.float32).reshape(shape)
    # Box and Muller, 1958. NumPy does not promise that its own normal numbers stay the same in later versions.
    half = -(-count // 2)
    radius, angle = np.sqrt(-2 * np.log(_uniform(bits, half))), 2 * np.pi * _uniform(bits, half)
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return both[:count].astype(np.float32).reshape(shape)


def _uniform(bits: np.random.SFC64, count: int) -> NDArray[np.float64]:
    """Midpoints of 2**23 equal parts of (0, 1), each equally likely."""
    integers = random_integers(bits, count, "<u4") >> np.uint32(32 - _UNIFORM_BITS)
    return (integers.astype(np.float64) + 0.5) * 2.0**-_UNIFORM_BITS
