"""Sizes of tensors as expressions of the sizes of the inputs' axes, such as ``"batch*4"`` or ``"(x_2 + 1)//2"``.

The exporter writes them, and the runtime evaluates them without PyTorch. They come from a file, so nothing but whole
numbers, names of axes and the operators below is accepted.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

Size = int | str
"""A fixed size, or an expression."""

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[[list[int]], int]] = {"max": max, "min": min}
_LONGEST = 400
"""Characters of the longest expression that is read."""
_LARGEST = 2**40
"""Largest value that an expression may have at any place."""


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise ValueError(f"size {text[:40]}... is too long")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"size {text!r}") from error


def evaluate(size: Size, axes: Mapping[str, int]) -> int:
    """Return the value of `size` for axes of these lengths.

    Raises:
        ValueError: `size` is no such expression, names another axis, or has a value below 0 or above 2**40.
    """
    value = size if isinstance(size, int) else _value(_parsed(size), axes, size)
    if not 0 <= value <= _LARGEST:
        raise ValueError(f"size {size!r} is {value}")
    return value


def _value(node: ast.expr, axes: Mapping[str, int], text: str) -> int:
    value: int | None = None
    if isinstance(node, ast.Constant) and type(node.value) is int:
        value = node.value
    elif isinstance(node, ast.Name) and node.id in axes:
        value = axes[node.id]
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, axes, text), _value(node.right, axes, text)
        if right or not isinstance(node.op, ast.FloorDiv | ast.Mod):
            value = _OPERATORS[type(node.op)](left, right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = -_value(node.operand, axes, text)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args and not node.keywords:
        function = _FUNCTIONS.get(node.func.id)
        values = [_value(argument, axes, text) for argument in node.args]
        value = function(values) if function is not None else None
    if value is None or abs(value) > _LARGEST:
        raise ValueError(f"size {text!r}")
    return value
