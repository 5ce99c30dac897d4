"""Compares an ONNX model with live dropout with the PyTorch model that it was made of, before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from self2self.errors import InputError, VerificationError, first_line, shown
from self2self.live.contract import LiveContract
from self2self.live.draws import AnyArray, axes_of, draw_pass
from self2self.live.model import LiveModel
from self2self.live.probes import are_samples_separable, difference, refuse_idle_draws, refuse_wrong_kinds
from self2self.live.program import run_program

if TYPE_CHECKING:
    import onnx

    from self2self.live.capture import Capture

ONNX_TOLERANCE = 1e-4
"""Largest difference between the file and PyTorch with equal masks, relative to the largest value of the output. A
wrong graph differs by far more; the sums of deep networks in float32 may differ by 1e-5."""
NEUTRAL_TOLERANCE = 1e-6
"""Largest difference between neutral masks and evaluation mode, in the same units. Both run the same operators."""
_HALF_TOLERANCE = 1e-2
"""The same for outputs in float16."""


def verify(capture: Capture, proto: onnx.ModelProto, path: str) -> tuple[LiveContract, float, float | None]:
    """Check all that is promised of the file.

    Args:
        capture: of the model.
        proto: the ONNX model.
        path: of the file that it will be, for messages.

    Returns:
        the contract, which says now whether samples are separable; the largest difference from PyTorch; and the
        largest difference of neutral masks from evaluation mode, None if something draws noise.

    Raises:
        VerificationError: the file would not compute what the model computes, or a draw changes nothing.
    """
    live = LiveModel(Path(path), capture.contract, proto)
    examples = {name: value.numpy() for name, value in capture.values_by_placeholder().items()}
    samples = axes_of(capture.contract.axes, examples).get(capture.contract.batch or "", 1)
    onnx_differences, neutral_differences = [], []
    for index, (count, times) in enumerate([(samples, 1), (1, 1), (3, 2)]):
        values = capture.resized(count, times)
        try:
            plain, is_neutral = capture.evaluated(values)
        except Exception:
            if index == 0:
                raise
            # The model itself does not run on inputs of this size.
            continue
        inputs = {name: value.numpy() for name, value in capture.values_by_placeholder(values).items()}
        neutral_differences.append(_neutral_difference(capture, inputs, plain) if is_neutral else float("nan"))
        onnx_differences.append(_onnx_difference(capture, live, inputs, index))
    separable = are_samples_separable(live, examples)
    refuse_idle_draws(live, examples)
    refuse_wrong_kinds(live, examples)
    # NaN is larger than any number here.
    neutral = float(np.max(neutral_differences))
    contract = replace(capture.contract, separable=separable)
    return contract, max(onnx_differences), None if np.isnan(neutral) else neutral


def _neutral_difference(capture: Capture, inputs: Mapping[str, AnyArray], plain: list[torch.Tensor]) -> float:
    """Largest relative difference of the program with neutral masks from `plain`; NaN if noise has no neutral value."""
    axes = axes_of(capture.contract.axes, inputs)
    values = _tensors(inputs)
    for site, mask in zip(capture.sites, capture.contract.masks, strict=True):
        if site.keep is not None:
            neutral = site.keep
        elif site.operator == "rrelu":
            neutral = 0.5
        else:
            return float("nan")
        values[site.name] = torch.full(mask.shape(axes), neutral)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        results = run_program(capture.program, values, capture.bypass)
    largest = max(map(difference, map(_array, results), map(_array, plain)))
    if not largest <= _tolerance(NEUTRAL_TOLERANCE, plain):
        raise VerificationError(
            f"with neutral masks the model differs from model.eval() by {largest:.1e} of its output. A module that "
            "draws computes something else in training mode; use nn.Dropout for the draw alone."
        )
    return largest


def _onnx_difference(capture: Capture, live: LiveModel, inputs: Mapping[str, AnyArray], index: int) -> float:
    """Largest relative difference of the ONNX model from the program with the masks of pass `index`."""
    draws = draw_pass(capture.contract, axes_of(capture.contract.axes, inputs), 0, index)
    expected = run_program(capture.program, _tensors({**inputs, **draws}))
    try:
        results = live.one_pass(inputs, live.once(inputs), draws)
    except InputError as error:
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise VerificationError(
            f"the exported model does not run on {shown(sizes)} ({first_line(error.__cause__ or error)})."
        ) from error
    largest = max(map(difference, results.values(), map(_array, expected)))
    if not largest <= _tolerance(ONNX_TOLERANCE, expected):
        raise VerificationError(
            f"with equal masks the exported model differs from PyTorch by {largest:.1e} of its output; nothing was "
            "written. Please report the model."
        )
    return largest


def _tensors(arrays: Mapping[str, AnyArray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _array(tensor: torch.Tensor) -> AnyArray:
    # NumPy has no bfloat16.
    tensor = tensor.detach()
    return tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy()


def _tolerance(tolerance: float, values: list[torch.Tensor]) -> float:
    is_half = any(value.dtype in (torch.float16, torch.bfloat16) for value in values)
    return max(tolerance, _HALF_TOLERANCE) if is_half else tolerance
