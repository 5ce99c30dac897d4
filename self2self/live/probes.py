"""Changes the draws of a network one by one, to find what they reach; needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from self2self.errors import UsageError, VerificationError, shown, typed
from self2self.live.contract import KEEP_LEVELS, LiveContract, LiveMask
from self2self.live.draws import AnyArray, axes_of, draw_pass
from self2self.live.model import LiveModel

_SAME = 1e-5
"""Largest relative change of a sample that counts as none."""
_PROBABILITY_ERROR = 1e-2
"""What rounding, also in float16, may add to a probability or to a sum of all classes."""


def difference(got: AnyArray, wanted: AnyArray) -> float:
    """Largest difference relative to the largest value; infinite for other shapes, 0 where both are the same NaN."""
    if got.shape != wanted.shape:
        return float("inf")
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    other = ~((got == wanted) | (np.isnan(got) & np.isnan(wanted)))
    if not other.any():
        return 0.0
    largest = float(np.abs(wanted, where=np.isfinite(wanted), out=np.zeros_like(wanted)).max(initial=0))
    with np.errstate(invalid="ignore"):
        return float(np.abs(got - wanted)[other].max()) / max(largest, 1e-30)


def are_samples_separable(live: LiveModel, inputs: Mapping[str, AnyArray]) -> bool:
    """Whether the draws of a sample change that sample alone: those of the first are changed, one input at a time."""
    contract = live.contract
    if contract.batch is None or not all(output.batched for output in contract.outputs):
        return False
    samples = axes_of(contract.axes, inputs)[contract.batch]
    draws = _usual_draws(live, inputs)
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


def refuse_idle_draws(live: LiveModel, inputs: Mapping[str, AnyArray]) -> None:
    """Change one draw at a time, all of its values; each has to change an output.

    What a draw does may depend on the inputs: RReLU draws for negative values alone. So those that change nothing are
    tried again with all numbers negated.

    Raises:
        VerificationError: a draw changes nothing.
    """
    idle = list(live.contract.masks)
    not_finite: dict[str, None] = {}
    negated = {name: np.asarray(-value) if value.dtype.kind == "f" else value for name, value in inputs.items()}
    for values in (inputs, negated):
        if not idle:
            return
        draws = _usual_draws(live, values)
        carried = live.once(values)
        before = live.one_pass(values, carried, draws)
        not_finite |= {name: None for name, found in before.items() if not np.isfinite(found).all()}
        idle = [
            mask
            for mask in idle
            if all(
                np.array_equal(after, before[name], equal_nan=True)
                for name, after in live.one_pass(
                    values, carried, {**draws, mask.name: _other(mask, draws[mask.name])}
                ).items()
            )
        ]
    if idle and not_finite:
        raise VerificationError(
            f"output {shown(', '.join(not_finite))} has values that are not finite, which no draw changes. Check the "
            "weights and the example inputs for NaN."
        )
    if idle:
        names = ", ".join(dict.fromkeys(mask.site or "the model itself" for mask in idle[:3]))
        raise VerificationError(
            f"{len(idle)} of {len(live.contract.masks)} draws change no output, for example in {shown(names)}. "
            f"Leave them out: {typed('--exclude')}."
        )


def refuse_wrong_kinds(live: LiveModel, inputs: Mapping[str, AnyArray]) -> None:
    """Run one pass; outputs of kind "probabilities" have to be such.

    Raises:
        UsageError: an output is not in [0, 1], or its sum over the classes is not 1.
    """
    if all(output.kind != "probabilities" for output in live.contract.outputs):
        return
    draws = draw_pass(live.contract, axes_of(live.contract.axes, inputs), 0, 0)
    found = live.one_pass(inputs, live.once(inputs), draws)
    for output in live.contract.outputs:
        if output.kind != "probabilities":
            continue
        values = found[output.name].astype(np.float64)
        sums = values.sum(axis=1)
        in_range = bool(((values >= -_PROBABILITY_ERROR) & (values <= 1 + _PROBABILITY_ERROR)).all())
        if not in_range or (values.shape[1] > 1 and not bool((np.abs(sums - 1) <= _PROBABILITY_ERROR).all())):
            told = (
                f"from {values.min():.3g} to {values.max():.3g}" if not in_range else f"whose sum is {sums.flat[0]:.3g}"
            )
            raise UsageError(
                f"output {output.name} has no probabilities: it has values {told} over axis 1; expected 0 to 1 with a "
                f"sum of 1. Before a softmax they are logits: {typed('--kind logits')}; else {typed('--kind value')}."
            )


def _usual_draws(live: LiveModel, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Draws in which masks have their more frequent value everywhere: what a branch drops would hide the masks within
    it.
    """
    draws = draw_pass(live.contract, axes_of(live.contract.axes, inputs), 0, 0)
    for mask in live.contract.masks:
        if mask.keep_count is not None:
            draws[mask.name] = np.full(draws[mask.name].shape, 2 * mask.keep_count >= KEEP_LEVELS)
    return draws


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
