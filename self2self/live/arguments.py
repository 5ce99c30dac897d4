"""Checks the types of arguments: what is of another type is refused in one line, and NumPy's numbers are numbers."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from self2self.errors import UsageError, shown


def whole_number(name: str, value: Any, expected: str, least: int) -> int:
    """`value` as an int.

    Args:
        name: of the argument, for the message.
        value: what was given.
        expected: what was expected, for the message.
        least: smallest value that is allowed.

    Raises:
        UsageError: it is no whole number, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise wrong(name, value, expected) from error
    if number < least:
        raise wrong(name, value, expected)
    return number


def real_number(name: str, value: Any, expected: str) -> float:
    """`value` as a float; text is no number.

    Raises:
        UsageError: it is no number.
    """
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError) as error:
        raise wrong(name, value, expected) from error
    raise wrong(name, value, expected)


def items(name: str, value: Any, expected: str) -> tuple[Any, ...]:
    """The entries of `value`; text has none.

    Raises:
        UsageError: it has no entries.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        try:
            return tuple(value)
        except TypeError as error:  # an array without axes
            raise wrong(name, value, expected) from error
    raise wrong(name, value, expected)


def wrong(name: str, value: Any, expected: str) -> UsageError:
    """The error about an argument that is not what was expected."""
    return UsageError(f"{name} is {shown(repr(value))}; expected {expected}.")
