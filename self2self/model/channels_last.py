"""Prepare the inputs of 3x3 convolutions, channels last: mask activations, concatenate them, add a reflected border.

The steps of a fit and the passes of an ensemble on a CPU share these functions. If mask, concatenation and padding were
separate operators, reading and writing activations would take as long as the convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_INTEGER_OF_SAME_SIZE = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


def as_factors(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a mask to factors 0 and 1 for `apply_mask`.

    Args:
        mask: bool [N, C, H, W]; True keeps.
        dtype: type of the activations that will be masked, float32 or bfloat16.

    Returns:
        [N, C, H, W], channels last, in the integer type of the same size as `dtype`.
    """
    return mask.view(torch.int8).to(_INTEGER_OF_SAME_SIZE[dtype], memory_format=torch.channels_last)


def apply_mask(x: Tensor, factors: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `x` where `factors` are 1, and 0 elsewhere; the result is written to `out` if it is given.

    The product is computed in integers on the bits of `x`. PyTorch's product with a boolean takes five times as long.
    """
    bits = factors.dtype
    if out is None:
        out = torch.empty_like(x, memory_format=torch.channels_last)
    torch.mul(x.view(bits), factors, out=out.view(bits))
    return out


def pad_and_join(
    parts: Sequence[Tensor], factors: Tensor | None = None, *, above: bool = False, below: bool = False
) -> Tensor:
    """Concatenate `parts` along the channels and add the border of one pixel that a 3x3 convolution reads.

    Args:
        parts: [N, C, H, W] of one type and size.
        factors: mask for all channels, from `as_factors`; None masks nothing.
        above: whether the first row of `parts` already is the upper border, because `parts` are rows of a larger image.
        below: whether the last row of `parts` already is the lower border.

    Returns:
        [N, sum of C, H + 2 - above - below, W + 2], channels last; the added border is a reflection.
    """
    count, _, height, width = parts[0].shape
    channels = sum(part.shape[1] for part in parts)
    top, bottom = int(not above), int(not below)
    out = torch.empty(
        (count, channels, height + top + bottom, width + 2),
        dtype=parts[0].dtype,
        device=parts[0].device,
        memory_format=torch.channels_last,
    )
    inner = out[:, :, top : top + height, 1:-1]
    first = 0
    for part in parts:
        channel_range = slice(first, first + part.shape[1])
        if factors is None:
            inner[:, channel_range].copy_(part)
        else:
            apply_mask(part, factors[:, channel_range], inner[:, channel_range])
        first = channel_range.stop
    reflect_border(out, above=above, below=below)
    return out


def reflect_border(frame: Tensor, *, above: bool = False, below: bool = False) -> None:
    """Fill the border of one pixel with the reflection of the inner pixels, in place.

    Args:
        frame: [N, C, H + 2, W + 2].
        above: whether the first row is filled already, as for `pad_and_join`.
        below: whether the last row is filled already.
    """
    if not above:
        frame[:, :, 0] = frame[:, :, 2]
    if not below:
        frame[:, :, -1] = frame[:, :, -3]
    frame[..., 0] = frame[..., 2]
    frame[..., -1] = frame[..., -3]


def upsample_rows(x: Tensor, rows: slice) -> Tensor:
    """Upsample `x` to twice its size, nearest neighbour, and return some rows of the result.

    Args:
        x: [N, C, H, W].
        rows: range of the 2 H rows of the upsampled image, with a start and a stop.

    Returns:
        [N, C, rows, 2 W].
    """
    upsampled = F.interpolate(x[:, :, rows.start // 2 : -(-rows.stop // 2)], scale_factor=2.0, mode="nearest")
    first = rows.start % 2
    return upsampled[:, :, first : first + rows.stop - rows.start]


def fold_border(gradient: Tensor) -> Tensor:
    """Add the border of a gradient to the pixels that the border reflects, in place: the derivative of padding.

    Args:
        gradient: [N, C, H + 2, W + 2], gradient for a result of `pad_and_join` with a reflection on all four sides.

    Returns:
        a view [N, C, H, W]: the gradient for the inner pixels of that result, before any mask.
    """
    gradient[..., 2] += gradient[..., 0]
    gradient[..., -3] += gradient[..., -1]
    gradient[:, :, 2] += gradient[:, :, 0]
    gradient[:, :, -3] += gradient[:, :, -1]
    return gradient[:, :, 1:-1, 1:-1]
