from __future__ import annotations

import pytest

from self2self.live.sizes import evaluate

AXES = {"batch": 3, "x_2": 17}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (5, 5),
        ("batch", 3),
        ("(4*batch)", 12),
        ("((x_2 + (-1)) // 2)", 8),
        ("(x_2 % 5)", 2),
        ("max(batch, 9)", 9),
        ("min(batch, x_2)", 3),
        ("(batch*((x_2 // 2) + 1))", 27),
    ],
)
def test_an_expression_has_its_value(text: int | str, value: int) -> None:
    assert evaluate(text, AXES) == value


@pytest.mark.parametrize(
    "text",
    [
        "other",
        "batch - 4",
        "batch / 2",
        "batch ** 2",
        "batch // (batch - 3)",
        "__import__('os')",
        "batch.real",
        "max()",
        "abs(batch)",
        "True",
        "1.5",
        "(" * 300,
        "1" * 500,
        "*".join(["1000000"] * 9),
        "batch; batch",
        "",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        evaluate(text, AXES)
