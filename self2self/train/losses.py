"""The loss of a training step."""

from __future__ import annotations

from torch import Tensor


def masked_loss(
    prediction: Tensor, target: Tensor, input_mask: Tensor, loss_region: tuple[slice, slice], norm: str
) -> Tensor:
    """Mean error over the values that the mask hides from the network.

    Args:
        prediction: [N, C, H, W].
        target: [1 or N, C, H, W], what the prediction is compared with.
        input_mask: bool [N, C, H, W]; True means visible, so that the value does not count.
        loss_region: rows and columns that count: image, not padding.
        norm: ``"l1"`` for the mean absolute error, ``"l2"`` for the mean squared error.

    Returns:
        A scalar; 0 where nothing is hidden.
    """
    rows, columns = loss_region
    error = (prediction - target)[:, :, rows, columns]
    hidden = ~input_mask[:, :, rows, columns]
    penalty = error.abs() if norm == "l1" else error.square()
    return (penalty * hidden).sum() / hidden.sum().clamp(min=1)
