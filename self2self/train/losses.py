"""The self-supervised loss."""

from __future__ import annotations

from torch import Tensor


def masked_loss(
    prediction: Tensor, noisy: Tensor, input_mask: Tensor, inside: tuple[slice, slice], norm: str
) -> Tensor:
    """Mean error over the values that the network could not see.

    Args:
        prediction: [N, C, H, W].
        noisy: [1 or N, C, H, W], the image that the pass was fed.
        input_mask: bool [N, C, H, W]; True was visible.
        inside: rows and columns that are image and not padding.
        norm: ``"l1"`` for the mean absolute, ``"l2"`` for the mean squared error.

    Returns:
        A scalar; 0 where nothing was hidden.
    """
    rows, columns = inside
    error = (prediction - noisy)[:, :, rows, columns]
    hidden = ~input_mask[:, :, rows, columns]
    penalty = error.abs() if norm == "l1" else error.square()
    return (penalty * hidden).sum() / hidden.sum().clamp(min=1)
