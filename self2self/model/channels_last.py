"""What a convolution gets to see, channels last: activations, masked, joined, and with a reflected border.

Shared by the steps of a fit and the passes of an ensemble on a CPU, where going over activations takes as long as the
convolutions themselves if each of these is an operator of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_INTEGER_OF_SAME_SIZE = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


def as_factors(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """`mask`, bool [N, C, H, W], as factors 0 and 1 for `apply_mask`, channels last.

    Args:
        mask: True keeps.
        dtype: of what is masked, float32 or bfloat16.
    """
    return mask.view(torch.int8).to(_INTEGER_OF_SAME_SIZE[dtype], memory_format=torch.channels_last)


def apply_mask(x: Tensor, factors: Tensor, out: Tensor | None = None) -> Tensor:
    """`x` where `factors` are 1, and 0 elsewhere.

    As a product of integers on the bits of `x`, because PyTorch's product with a boolean takes five times as long.
    """
    bits = factors.dtype
    if out is None:
        out = torch.empty_like(x, memory_format=torch.channels_last)
    torch.mul(x.view(bits), factors, out=out.view(bits))
    return out


def pad_and_join(
    parts: Sequence[Tensor], factors: Tensor | None = None, *, above: bool = False, below: bool = False
) -> Tensor:
    """Concatenation of `parts` along the channels, with the border that a 3x3 convolution takes.

    Args:
        parts: [N, C, H, W] of one type and size.
        factors: for all channels, from `as_factors`; None masks nothing.
        above: whether a first row is the border already, because `parts` are rows out of a larger image.
        below: whether a last row is.

    Returns:
        [N, sum of C, H + 2 - above - below, W + 2], reflected where nothing is known, channels last.
    """
    count, _, height, width = parts[0].shape
    channels = sum(part.shape[1] for part in parts)
    top, bottom = int(not above), int(not below)
    out = torch.empty(
        (count, channels, height + top + bottom, width + 2),
        dtype=parts[0].dtype,
        memory_format=torch.channels_last,
    )
    inner = out[:, :, top : top + height, 1:-1]
    first = 0
    for part in parts:
        place = slice(first, first + part.shape[1])
        if factors is None:
            inner[:, place].copy_(part)
        else:
            apply_mask(part, factors[:, place], inner[:, place])
        first = place.stop
    reflect_border(out, above=above, below=below)
    return out


def reflect_border(frame: Tensor, *, above: bool = False, below: bool = False) -> None:
    """Fill the border of one pixel with what is inside of it, reflected, in place.

    Args:
        frame: [N, C, H + 2, W + 2].
        above: as for `pad_and_join`, whether the first row is there already.
        below: whether the last row is.
    """
    if not above:
        frame[:, :, 0] = frame[:, :, 2]
    if not below:
        frame[:, :, -1] = frame[:, :, -3]
    frame[..., 0] = frame[..., 2]
    frame[..., -1] = frame[..., -3]


def upsample_rows(x: Tensor, rows: slice) -> Tensor:
    """`rows` of `x` at twice its size, each pixel four times.

    Args:
        x: [N, C, H, W].
        rows: of the result's 2 H, with a start and a stop.

    Returns:
        [N, C, rows, 2 W].
    """
    made = F.interpolate(x[:, :, rows.start // 2 : -(-rows.stop // 2)], scale_factor=2.0, mode="nearest")
    first = rows.start % 2
    return made[:, :, first : first + rows.stop - rows.start]


def fold_border(gradient: Tensor) -> Tensor:
    """Add the border of a gradient for what `pad_and_join` made to what it reflects, in place.

    Args:
        gradient: [N, C, H + 2, W + 2] for a frame that was reflected on all sides.

    Returns:
        a view [N, C, H, W]: the gradient for what was framed, before any mask.
    """
    gradient[..., 2] += gradient[..., 0]
    gradient[..., -3] += gradient[..., -1]
    gradient[:, :, 2] += gradient[:, :, 0]
    gradient[:, :, -3] += gradient[:, :, -1]
    return gradient[:, :, 1:-1, 1:-1]
