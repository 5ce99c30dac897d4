"""Arguments of Python callers as plain values: numbers of NumPy become Python's, and wrong types are refused."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from self2self.errors import UsageError, typed

LONGEST_SHOWN = 60
"""Longest text by which a message shows a value; of others it tells the type."""


def whole_number(name: str, value: Any) -> int:
    """`value` as an integer: one of Python or NumPy, or an array or tensor that holds a single one.

    Raises:
        UsageError: it is something else; the message calls it `name`.
    """
    if isinstance(value, bool):
        _refuse(name, value, "an integer")
    try:
        return operator.index(value)
    except TypeError:
        _refuse(name, value, "an integer")


def real_number(name: str, value: Any) -> float:
    """`value` as a float: a number of Python or NumPy, or an array or tensor that holds a single one.

    Raises:
        UsageError: it is something else; the message calls it `name`.
    """
    if isinstance(value, bool | str | bytes):
        _refuse(name, value, "a number")
    try:
        return value if type(value) in (int, float) else float(value)
    except (TypeError, ValueError):
        _refuse(name, value, "a number")


def text(name: str, value: Any) -> str:
    """`value` as a text; a path is one, too.

    Raises:
        UsageError: it is something else; the message calls it `name`.
    """
    return value if isinstance(value, str) else str(file_path(name, value, "a text"))


def switch(name: str, value: Any) -> bool:
    """`value`, which is True or False.

    Raises:
        UsageError: it is something else; the message calls it `name`.
    """
    return value if isinstance(value, bool) else _refuse(name, value, "True or False")


def file_path(name: str, value: Any, expected: str = "a path") -> Path:
    """`value` as a path.

    Raises:
        UsageError: it is something else; the message calls it `name`, and says what is `expected`.
    """
    return Path(value) if isinstance(value, str | os.PathLike) else _refuse(name, value, expected)


def make_plain(options: Any, convert: Callable[[str, Any], Any], *names: str) -> None:
    """Replace attributes of a frozen dataclass by what `convert` makes of them; None stays.

    Raises:
        UsageError: as `convert` does.
    """
    for name in names:
        if (value := getattr(options, name)) is not None:
            object.__setattr__(options, name, convert(name, value))


def _refuse(name: str, value: Any, expected: str) -> NoReturn:
    shown = repr(value)
    if len(shown) > LONGEST_SHOWN or "\n" in shown:
        shown = f"of type {type(value).__name__}"
    raise UsageError(f"{typed('--' + name.replace('_', '-'))} is {shown}; expected {expected}.")
