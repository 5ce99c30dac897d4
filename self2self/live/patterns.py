"""Chooses draws by patterns of their paths."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from self2self.errors import UsageError, shown
from self2self.machine.arguments import items, wrong


@dataclass(frozen=True, slots=True)
class Patterns:
    """Which draws stay.

    Attributes:
        include: patterns of those that stay; None for all.
        exclude: patterns of those that do not.
    """

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, include: Any, exclude: Any) -> Patterns:
        """Patterns as `export_live` takes them.

        Raises:
            UsageError: they are no text.
        """
        return cls(_texts("include", include), _texts("exclude", exclude) or ())

    def keep(self, path: str) -> bool:
        """Whether the draw of this path stays."""
        included = self.include is None or any(fnmatchcase(path, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(path, pattern) for pattern in self.exclude)

    def check(self, paths: Collection[str], where: str = "") -> None:
        """Refuse patterns that match none of `paths`, or leave none.

        Args:
            paths: of all that draws.
            where: start of the message.

        Raises:
            UsageError: names the pattern and the paths.
        """
        told = ", ".join(dict.fromkeys(path or "the model itself" for path in paths))
        for pattern in (*(self.include or ()), *self.exclude):
            if not any(fnmatchcase(path, pattern) for path in paths):
                raise UsageError(f"{where}the pattern {shown(pattern)} matches no draw; the draws are {shown(told)}.")
        if not any(map(self.keep, paths)):
            raise UsageError(f"{where}the patterns leave no draw; the draws are {shown(told)}.")


def _texts(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    expected = "a pattern or several, such as 'head.*'"
    texts = (value,) if isinstance(value, str) else items(name, value, expected)
    if not all(isinstance(text, str) for text in texts):
        raise wrong(name, value, expected)
    return texts
