"""Compares an ONNX model with live dropout with the PyTorch model that it was made of, before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from self2self.errors import InputError, VerificationError, first_line, shown, typed
from self2self.live.contract import KEEP_LEVELS, LiveContract, LiveMask
from self2self.live.draws import AnyArray, draw_pass
from self2self.live.model import LiveModel
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
_SAME = 1e-5
"""Largest relative change of a sample that counts as none."""


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
    samples = _axes(capture.contract, capture.values_by_placeholder()).get(capture.contract.batch or "", 1)
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
        inputs = capture.values_by_placeholder(values)
        neutral_differences.append(_neutral_difference(capture, inputs, plain) if is_neutral else float("nan"))
        onnx_differences.append(_onnx_difference(capture, live, inputs, index))
    values = capture.values_by_placeholder()
    separable = _are_samples_separable(live, values, samples)
    _refuse_idle_draws(live, values)
    # NaN is larger than any number here.
    neutral = float(np.max(neutral_differences))
    contract = replace(capture.contract, separable=separable)
    return contract, max(onnx_differences), None if np.isnan(neutral) else neutral


def _axes(contract: LiveContract, inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    return {axis: inputs[name].shape[index] for axis, (name, index) in contract.axes.items()}


def _neutral_difference(capture: Capture, inputs: Mapping[str, torch.Tensor], plain: list[torch.Tensor]) -> float:
    """Largest relative difference of the program with neutral masks from `plain`; NaN if noise has no neutral value."""
    axes = _axes(capture.contract, inputs)
    values = dict(inputs)
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
    difference = max(map(_difference, results, plain))
    if not difference <= _tolerance(NEUTRAL_TOLERANCE, plain):
        raise VerificationError(
            f"with neutral masks the model differs from model.eval() by {difference:.1e} of its output. A module that "
            "draws computes something else in training mode; use nn.Dropout for the draw alone."
        )
    return difference


def _onnx_difference(capture: Capture, live: LiveModel, inputs: Mapping[str, torch.Tensor], index: int) -> float:
    """Largest relative difference of the ONNX model from the program with the masks of pass `index`."""
    arrays = {name: value.numpy() for name, value in inputs.items()}
    draws = draw_pass(capture.contract, _axes(capture.contract, inputs), 0, index)
    tensors = {name: torch.from_numpy(values) for name, values in draws.items()}
    expected = run_program(capture.program, {**inputs, **tensors})
    try:
        results = live.one_pass(arrays, live.once(arrays), draws)
    except InputError as error:
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise VerificationError(
            f"the exported model does not run on {shown(sizes)} ({first_line(error.__cause__ or error)})."
        ) from error
    difference = max(map(_difference, map(torch.from_numpy, results.values()), expected))
    if not difference <= _tolerance(ONNX_TOLERANCE, expected):
        raise VerificationError(
            f"with equal masks the exported model differs from PyTorch by {difference:.1e} of its output; nothing was "
            "written. Please report the model."
        )
    return difference


def _tolerance(tolerance: float, values: list[torch.Tensor]) -> float:
    is_half = any(value.dtype in (torch.float16, torch.bfloat16) for value in values)
    return max(tolerance, _HALF_TOLERANCE) if is_half else tolerance


def _difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference relative to the largest value; infinite for other shapes, 0 where both are the same NaN."""
    if got.shape != wanted.shape:
        return float("inf")
    got, wanted = got.double(), wanted.double()
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    if bool(same.all()):
        return 0.0
    finite = wanted[wanted.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return float((got - wanted)[~same].abs().max()) / max(largest, 1e-30)


def _are_samples_separable(live: LiveModel, tensors: Mapping[str, torch.Tensor], samples: int) -> bool:
    """Whether the draws of a sample change that sample alone: those of the first are changed, one input at a time."""
    contract = live.contract
    if contract.batch is None or not all(output.batched for output in contract.outputs):
        return False
    inputs, draws = _inputs_and_draws(live, tensors)
    carried = live.once(inputs)
    before = live.one_pass(inputs, carried, draws)
    for mask in contract.masks:
        if not mask.batched:
            if _has_batch(mask, contract):
                return False
            continue
        changed = draws[mask.name].copy()
        rows = len(changed) // samples
        changed[:rows] = _other(mask, changed[:rows])
        after = live.one_pass(inputs, carried, {**draws, mask.name: changed})
        if not all(_is_same(after[name][1:], before[name][1:]) for name in before):
            return False
    return True


def _refuse_idle_draws(live: LiveModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Change one draw at a time, all of its values; each has to change an output.

    What a draw does may depend on the inputs: RReLU draws for negative values alone. So those that change nothing are
    tried again with all numbers negated.

    Raises:
        VerificationError: a draw changes nothing.
    """
    idle = list(live.contract.masks)
    negated = {name: -value if value.is_floating_point() else value for name, value in tensors.items()}
    for values in (tensors, negated):
        if not idle:
            return
        inputs, draws = _inputs_and_draws(live, values)
        carried = live.once(inputs)
        before = live.one_pass(inputs, carried, draws)
        idle = [
            mask
            for mask in idle
            if all(
                np.array_equal(after, before[name], equal_nan=True)
                for name, after in live.one_pass(
                    inputs, carried, {**draws, mask.name: _other(mask, draws[mask.name])}
                ).items()
            )
        ]
    if idle:
        names = ", ".join(dict.fromkeys(mask.site or "the model itself" for mask in idle[:3]))
        raise VerificationError(
            f"{len(idle)} of {len(live.contract.masks)} draws change no output, for example in {shown(names)}. "
            f"Leave them out: exclude ({typed('--exclude')})."
        )


def _inputs_and_draws(
    live: LiveModel, tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, AnyArray], dict[str, AnyArray]]:
    """The inputs as arrays, and draws in which masks have their more frequent value everywhere: what a branch drops
    would hide the masks within it.
    """
    draws = draw_pass(live.contract, _axes(live.contract, tensors), 0, 0)
    for mask in live.contract.masks:
        if mask.keep_count is not None:
            draws[mask.name] = np.full(draws[mask.name].shape, 2 * mask.keep_count >= KEEP_LEVELS)
    return {name: value.numpy() for name, value in tensors.items()}, draws


def _has_batch(mask: LiveMask, contract: LiveContract) -> bool:
    return any(isinstance(dim, str) and contract.batch is not None and contract.batch in dim for dim in mask.dims)


def _other(mask: LiveMask, values: AnyArray) -> AnyArray:
    """Another draw of the same kind, none of whose values stays (but for 0 and 1/2, which are hardly ever drawn)."""
    if mask.draw == "mask":
        return np.asarray(~values)
    return np.asarray(1 - values if mask.draw == "uniform" else -values)


def _is_same(first: AnyArray, second: AnyArray) -> bool:
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, second))
    largest = float(np.abs(second, where=np.isfinite(second), out=np.zeros_like(second)).max(initial=0))
    return bool(np.allclose(first, second, rtol=0, atol=_SAME * largest, equal_nan=True))
