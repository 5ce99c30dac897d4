"""Words that several results use for people."""

from __future__ import annotations

SECONDS_IN_WHOLE = 9.5


def seconds_text(seconds: float) -> str:
    """A time in whole seconds where it has two digits, else with one decimal."""
    return f"{seconds:.0f} s" if seconds >= SECONDS_IN_WHOLE else f"{seconds:.1f} s"
