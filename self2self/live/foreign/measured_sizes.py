"""Finds how the sizes of a tensor follow from the lengths of the inputs' axes, from sizes that were measured.

Layers of a network shorten an axis by division, cut off or add a few elements, and repeat or join axes. So a size is
looked for as a number, as a product ``k * ((a + c)//q + e) * ... + d`` with one factor for each axis, or as a sum with
one part for each. The simplest expression that has all measured values is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from self2self.live.sizes import Size, evaluate

Lengths = Mapping[str, int]

_LARGEST_DIVISOR = 64
_OFFSETS = sorted(range(-16, 17), key=abs)
"""Elements that are cut off or added; the smallest first."""
_REMAINDERS = (0, 1, -1, 2)
"""What a product may have beside it: a class token, for example."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The sizes of one axis of a tensor.

    Attributes:
        lengths: of the free axes in each measurement; the first is the base, and for each axis there are others that
            differ from it in this axis alone.
        sizes: what was found with them.
    """

    lengths: Sequence[Lengths]
    sizes: Sequence[int]

    def along(self, axis: str) -> tuple[list[int], list[int]]:
        """Lengths of `axis`, and sizes, where no other axis differs from the base."""
        base = self.lengths[0]
        pairs = [
            (lengths[axis], size)
            for lengths, size in zip(self.lengths, self.sizes, strict=True)
            if all(lengths[other] == base[other] for other in base if other != axis)
        ]
        return [length for length, _ in pairs], [size for _, size in pairs]


def expression_of(measured: Measured) -> Size | None:
    """The size as a number or an expression that `sizes.evaluate` reads; None if none of those above has its values."""
    first = measured.sizes[0]
    axes = [axis for axis in measured.lengths[0] if len(set(measured.along(axis)[1])) > 1]
    if not axes:
        return first if len(set(measured.sizes)) == 1 else None
    for text in (*_products(measured, axes), *_sums(measured, axes)):
        if all(evaluate(text, lengths) == size for lengths, size in zip(measured.lengths, measured.sizes, strict=True)):
            return text
    return None


def _products(measured: Measured, axes: list[str]) -> list[str]:
    """Products that may be the size, the simplest first."""
    found = []
    for rest in _REMAINDERS:
        factors = [_factor(*measured.along(axis), rest) for axis in axes]
        sizes = measured.sizes[0] - rest
        if sizes <= 0 or any(factor is None for factor in factors):
            continue
        named = list(zip(axes, filter(None, factors), strict=True))
        text = "*".join(_part(axis, factor) for axis, factor in named)
        whole = evaluate(text, measured.lengths[0])
        if sizes % whole == 0:
            text = text if sizes == whole else f"{text}*{sizes // whole}"
        elif whole % sizes == 0:
            text = f"({text})//{whole // sizes}"
        else:
            continue
        effort = abs(rest) + sum(abs(factor.offset) for _, factor in named)
        found.append((effort, sum(factor.divisor for _, factor in named), _with_rest(text, rest)))
    return [text for _, _, text in sorted(found)]


@dataclass(frozen=True, slots=True)
class _Factor:
    """``(a + shift)//divisor + offset``."""

    shift: int
    divisor: int
    offset: int


@lru_cache(maxsize=64)
def _divided(lengths: tuple[int, ...]) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """All pairs of shift and divisor, the smallest divisor first, and ``(length + shift)//divisor`` for all lengths."""
    pairs = [(shift, divisor) for divisor in range(1, _LARGEST_DIVISOR + 1) for shift in range(divisor)]
    shifts, divisors = np.array(pairs).T[:, :, None]
    return pairs, (np.array(lengths) + shifts) // divisors


def _factor(lengths: list[int], sizes: list[int], rest: int) -> _Factor | None:
    """The simplest factor to which all sizes less `rest` are proportional."""
    pairs, divided = _divided(tuple(lengths))
    wanted = np.array(sizes) - rest
    for offset in _OFFSETS:
        values = divided + offset
        fits = (values[:, 0] > 0) & (values * wanted[0] == wanted * values[:, :1]).all(axis=1)
        if fits.any():
            return _Factor(*pairs[int(fits.argmax())], offset)
    return None


def _part(axis: str, factor: _Factor) -> str:
    text = f"({axis} + {factor.shift})" if factor.shift else axis
    if factor.divisor > 1:
        text = f"({text}//{factor.divisor})"
    return _with_rest(text, factor.offset)


def _with_rest(text: str, rest: int) -> str:
    return text if rest == 0 else f"({text} {'+' if rest > 0 else '-'} {abs(rest)})"


def _sums(measured: Measured, axes: list[str]) -> list[str]:
    """The sum to which each axis adds a part of its own; none if there is no such sum."""
    parts = [_addend(*measured.along(axis), axis) for axis in axes]
    if not all(parts):
        return []
    text = " + ".join(map(str, parts))
    return [_with_rest(text, measured.sizes[0] - evaluate(text, measured.lengths[0]))]


def _addend(lengths: list[int], sizes: list[int], axis: str) -> str | None:
    """``((axis + shift)//divisor)*scale`` whose differences are those of the sizes."""
    pairs, divided = _divided(tuple(lengths))
    steps, wanted = divided - divided[:, :1], np.array(sizes) - sizes[0]
    furthest = int(np.abs(wanted).argmax())
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.where(steps[:, furthest] != 0, wanted[furthest] / steps[:, furthest], 0).astype(int)
    fits = (scales > 0) & (steps * scales[:, None] == wanted).all(axis=1)
    if not fits.any():
        return None
    chosen = int(fits.argmax())
    text, scale = _part(axis, _Factor(*pairs[chosen], 0)), int(scales[chosen])
    return text if scale == 1 else f"{text}*{scale}"
