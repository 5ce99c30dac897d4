"""Sums up the passes over a batch, in memory that does not grow with their number, and computes what they tell.

Notation of Gal (Uncertainty in Deep Learning, 2016, section 3.3) and Houlsby et al. (2011, BALD). Entropies are in
nats. With p_t the class probabilities of pass t and p their mean over the passes:

- predictive entropy: H(p), all of the uncertainty about the class;
- mutual information: H(p) minus the mean of H(p_t), the part that is due to the weights (BALD);
- variation ratio: share of the passes whose most probable class is not the most frequent one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import ResourceError
from self2self.live.contract import OF_CLASSES, Kind

FloatArray = NDArray[np.float32]
Wide = NDArray[np.float64]

LARGEST_KEPT_BYTES = 2**30
"""Memory for the predictions of all passes, which exact quantiles need."""


@dataclass(frozen=True, slots=True)
class OutputStatistics:
    """What the passes tell of one output; all arrays are float32.

    Attributes:
        mean: mean over the passes, of the output's shape; of probabilities if the output has logits.
        std: standard deviation over the passes (divisor: passes - 1), of the same values.
        entropy: predictive entropy in nats, of the output's shape without axis 1; None for an output
            without classes.
        mutual_information: in nats, of the same shape (BALD); None as above.
        variation_ratio: from 0 to 1, of the same shape; None as above.
        quantiles: [quantile, ...output's shape]; None unless they were asked for.
    """

    mean: FloatArray
    std: FloatArray
    entropy: FloatArray | None = None
    mutual_information: FloatArray | None = None
    variation_ratio: FloatArray | None = None
    quantiles: FloatArray | None = None

    @staticmethod
    def joined(parts: list[OutputStatistics]) -> OutputStatistics:
        """The statistics of several batches as those of one; axis 0 counts samples."""
        if len(parts) == 1:
            return parts[0]

        def join(name: str) -> Any:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays, axis=1 if name == "quantiles" else 0)

        return OutputStatistics(*map(join, OutputStatistics.__slots__))


class RunningStatistics:
    """Statistics of one output over the passes so far.

    Args:
        name: of the output, for messages.
        kind: what its values are.
        quantiles: which quantiles are wanted, each from 0 to 1; every pass is kept for them.

    Attributes:
        count: number of passes so far.
    """

    def __init__(self, name: str, kind: Kind, quantiles: tuple[float, ...] = ()) -> None:
        self.count = 0
        self._name = name
        self._kind = kind
        self._quantiles = quantiles
        self._kept: list[FloatArray] = []
        self._mean: Wide = np.zeros(())
        self._squares: Wide = np.zeros(())
        self._entropies: Wide = np.zeros(())
        self._votes: NDArray[np.int64] = np.zeros((), np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Add the output of one pass; axis 1 of logits and probabilities counts classes.

        Raises:
            ResourceError: quantiles need more memory than `LARGEST_KEPT_BYTES`.
        """
        wide = values.astype(np.float64)
        # What is not finite spreads without a warning.
        with np.errstate(invalid="ignore"):
            if self._kind == "logits":
                wide = _probabilities(wide)
            if not self.count:
                self._mean, self._squares = np.zeros(wide.shape), np.zeros(wide.shape)
            self.count += 1
            # Welford's sums do not lose digits where the mean is large.
            step = wide - self._mean
            self._mean += step / self.count
            self._squares += step * (wide - self._mean)
            if self._kind in OF_CLASSES:
                both = _with_no(wide)
                self._entropies = self._entropies + _entropy(both)
                winners = np.argmax(both, axis=1)
                self._votes = self._votes + (np.arange(both.shape[1]).reshape(_on_axis_1(both)) == winners[:, None])
        if self._quantiles:
            if (self.count + 1) * wide.size * 4 > LARGEST_KEPT_BYTES:
                raise ResourceError(
                    f"quantiles of {self._name} after {self.count} passes need more than "
                    f"{LARGEST_KEPT_BYTES / 2**30:.0f} GiB. Ask for fewer passes, smaller batches, or no quantiles."
                )
            self._kept.append(wide.astype(np.float32))

    @property
    def is_finite(self) -> bool:
        """Whether all values so far, as probabilities or as they are, were finite."""
        return bool(np.isfinite(self._mean).all())

    def standard_error(self) -> float:
        """RMS standard error of the finite means: relative to their RMS for a value, absolute for other kinds."""
        if self.count < 2:
            return float("inf")
        # More passes do not change what is not finite.
        finite = np.isfinite(self._squares) & np.isfinite(self._mean)
        mean, squares = self._mean[finite], self._squares[finite]
        error = float(np.sqrt(np.mean(squares) / (self.count - 1) / self.count)) if mean.size else 0.0
        if self._kind != "value" or error == 0:
            return error
        return error / max(float(np.sqrt(np.mean(np.square(mean)))), 1e-30)

    def result(self) -> OutputStatistics:
        """The statistics of all passes so far, at least two."""
        mean, std = self._mean, np.sqrt(self._squares / (self.count - 1))
        kept = np.quantile(np.stack(self._kept), self._quantiles, axis=0) if self._quantiles else None
        quantiles = None if kept is None else kept.astype(np.float32)
        if self._kind not in OF_CLASSES:
            return OutputStatistics(_float32(mean), _float32(std), quantiles=quantiles)
        entropy = _entropy(_with_no(mean))
        return OutputStatistics(
            mean=_float32(mean),
            std=_float32(std),
            entropy=_float32(entropy),
            # Rounding can make it negative where all passes agree.
            mutual_information=_float32(np.maximum(entropy - self._entropies / self.count, 0)),
            variation_ratio=_float32(np.where(np.isnan(entropy), np.nan, 1 - self._votes.max(axis=1) / self.count)),
            quantiles=quantiles,
        )


def _float32(values: Wide) -> FloatArray:
    return values.astype(np.float32)


def _on_axis_1(values: Wide) -> list[int]:
    return [1, -1, *[1] * (values.ndim - 2)]


def _probabilities(logits: Wide) -> Wide:
    """Softmax over axis 1; of one class the probability of yes."""
    if logits.shape[1] == 1:
        # The same as 1 / (1 + exp(-x)), without its overflow.
        yes: Wide = 0.5 * (1 + np.tanh(0.5 * logits))
        return yes
    powers: Wide = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Wide = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _with_no(probabilities: Wide) -> Wide:
    """Probabilities of two classes where axis 1 has the probability of yes alone."""
    if probabilities.shape[1] == 1:
        return np.concatenate([1 - probabilities, probabilities], axis=1)
    return probabilities


def _entropy(probabilities: Wide) -> Wide:
    """Entropy over axis 1 in nats; 0 log 0 is 0."""
    logarithms = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    entropy: Wide = -(probabilities * logarithms).sum(axis=1)
    return entropy
