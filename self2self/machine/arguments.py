"""Arguments of Python callers as plain values: numbers of NumPy become Python's, and wrong types are refused.

All functions take a label, by which the message calls the argument.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from self2self.errors import UsageError, typed

LONGEST_SHOWN = 60
"""Longest text by which a message shows a value; of others it tells the type."""


def whole_number(label: str, value: Any, expected: str = "an integer", least: int | None = None) -> int:
    """`value` as an int: an integer of Python or NumPy, or an array or tensor that holds a single one.

    Args:
        label: of the argument.
        value: what was given.
        expected: what was expected, for the message.
        least: smallest value that is allowed; None for any.

    Raises:
        UsageError: it is something else, or below `least`.
    """
    if isinstance(value, bool):
        raise wrong(label, value, expected)
    try:
        number = operator.index(value)
    except TypeError as error:
        raise wrong(label, value, expected) from error
    if least is not None and number < least:
        raise wrong(label, value, expected)
    return number


def real_number(label: str, value: Any, expected: str = "a number") -> float:
    """`value` as a float, or an int as it is: a number of Python or NumPy, or an array or tensor that holds one.

    Raises:
        UsageError: it is something else; text is no number.
    """
    if isinstance(value, bool | str | bytes):
        raise wrong(label, value, expected)
    try:
        return value if type(value) in (int, float) else float(value)
    except (TypeError, ValueError) as error:
        raise wrong(label, value, expected) from error


def items(label: str, value: Any, expected: str) -> tuple[Any, ...]:
    """The entries of `value`; text has none.

    Raises:
        UsageError: it has no entries.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        try:
            return tuple(value)
        except TypeError as error:  # an array without axes
            raise wrong(label, value, expected) from error
    raise wrong(label, value, expected)


def text(label: str, value: Any) -> str:
    """`value` as a text; a path is one, too.

    Raises:
        UsageError: it is something else.
    """
    return value if isinstance(value, str) else str(file_path(label, value, "a text"))


def switch(label: str, value: Any) -> bool:
    """`value`, which is True or False.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, bool):
        raise wrong(label, value, "True or False")
    return value


def file_path(label: str, value: Any, expected: str = "a path") -> Path:
    """`value` as a path.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, str | os.PathLike):
        raise wrong(label, value, expected)
    return Path(value)


def make_plain(options: Any, convert: Callable[[str, Any], Any], *names: str) -> None:
    """Replace attributes of a frozen dataclass by what `convert` makes of them; None stays.

    Raises:
        UsageError: as `convert` does; the message calls an attribute as the front end calls its option.
    """
    for name in names:
        if (value := getattr(options, name)) is not None:
            object.__setattr__(options, name, convert(typed("--" + name.replace("_", "-")), value))


def wrong(label: str, value: Any, expected: str) -> UsageError:
    """The error about an argument that is not what was expected."""
    given = repr(value)
    if len(given) > LONGEST_SHOWN or "\n" in given:
        given = f"of type {type(value).__name__}"
    return UsageError(f"{label} is {given}; expected {expected}.")
