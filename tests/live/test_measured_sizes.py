from __future__ import annotations

from itertools import product

import pytest

from self2self.live.foreign.measured_sizes import Measured, expression_of
from self2self.live.sizes import evaluate

BASE = {"batch": 2, "h": 32, "w": 48}


def measurements(text: str) -> Measured:
    """What is measured where `text` is the truth: each axis alone, and all of them."""
    lengths = [BASE]
    for axis, steps in {"batch": (1, -1, 2), "h": (1, 2, 3, 5, 7, 8, 32), "w": (1, 2, 3, 5, 7, 8, 32)}.items():
        lengths += [{**BASE, axis: BASE[axis] + step} for step in steps]
    lengths.append({"batch": 4, "h": 64, "w": 80})
    return Measured(lengths, [evaluate(text, one) for one in lengths])


@pytest.mark.parametrize(
    "truth",
    [
        "7",
        "batch",
        "batch*3",
        "h",
        "h - 4",
        "(h + 3)//4",
        "((h - 3)//2 + 1)//2",
        "(h + 31)//32",
        "2*((h + 1)//2)",
        "(h//8)*(w//8) + 1",
        "batch*((h + 3)//4)*(w//2)",
        "batch*(h//8)*5",
        "(h - 2)*(w - 2)",
        "h + w",
        "h + 2*w + 1",
        "h*w//16",
    ],
)
def test_the_expression_has_the_same_values_elsewhere(truth: str) -> None:
    found = expression_of(measurements(truth))
    assert found is not None
    # Only multiples of 16 where the truth divides a product: others were not measured.
    lengths = [{"batch": b, "h": h, "w": w} for b, h, w in product((1, 7), (64, 96, 160), (64, 112))]
    assert [evaluate(found, one) for one in lengths] == [evaluate(truth, one) for one in lengths]


def test_what_follows_no_rule_is_not_guessed() -> None:
    assert expression_of(measurements("h % 7 + 1")) is None
    measured = measurements("h")
    assert expression_of(Measured(measured.lengths, [*measured.sizes[:-1], 5])) is None
