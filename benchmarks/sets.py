"""Which images are for tuning, which for validation and which for a test: `sets.json`, which all benchmarks read.

    python -m benchmarks.sets DATA

counts the files of each split in the folder DATA, and names the files that no split has.

- Tuning images may be looked at freely. Whatever was looked at while settings were chosen is one.
- Validation images are looked at seldom. Each look is written down, with its reason, in `dev/log/validation-looks.md`.
- Test images are run once for a release. That is written down in the same place.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

SETS = Path(__file__).with_name("sets.json")
LOOKS = Path(__file__).parents[1] / "dev" / "log" / "validation-looks.md"
SPLITS = ("tuning", "validation", "test")
SUFFIXES = (".png", ".jpg", ".tif", ".tiff")

HEAD = """# Looks at validation and test images

`benchmarks/sets.json` says which images these are. `python -m benchmarks.protocol` adds a line at every look.

| date | split | command | why |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Split:
    """One of the three parts of a data set.

    Attributes:
        files: patterns of its files, relative to the data folder.
        rest: patterns of files that it has if no other split names them.
        note: why these files are here.
    """

    files: tuple[str, ...]
    rest: tuple[str, ...]
    note: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Split:
        """A split as `sets.json` has it."""
        return cls(tuple(values.get("files", ())), tuple(values.get("rest", ())), values["note"])


class SplitError(SystemExit):
    """A file is in two splits, or a look is not allowed."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set and its splits.

    Attributes:
        name: as `sets.json` has it.
        splits: each of `SPLITS`.
    """

    name: str
    splits: Mapping[str, Split]

    def divided(self, data: Path) -> dict[str, list[Path]]:
        """The files in the folder `data` of each split, sorted.

        Raises:
            SplitError: a file is in two splits.
        """
        owner: dict[Path, str] = {}
        for name, split in self.splits.items():
            for path in _found(data, split.files):
                if owner.setdefault(path, name) != name:
                    raise SplitError(
                        f"{path.relative_to(data)} is in two splits of {self.name}: {owner[path]}, {name}."
                    )
        named = set(owner)
        for name, split in self.splits.items():
            for path in _found(data, split.rest) - named:
                if owner.setdefault(path, name) != name:
                    raise SplitError(f"{path.relative_to(data)} is the rest of two splits of {self.name}.")
        return {name: sorted(path for path, of in owner.items() if of == name) for name in self.splits}


def load_sets(path: Path = SETS) -> dict[str, DataSet]:
    """All data sets of `sets.json`."""
    values = json.loads(path.read_text(encoding="utf-8"))["sets"]
    return {
        name: DataSet(name, {split: Split.from_json(parts[split]) for split in SPLITS})
        for name, parts in values.items()
    }


def never_judged(data: Path, path: Path = SETS) -> set[Path]:
    """Files that no method may be judged on, because start weights have seen them."""
    return _found(data, json.loads(path.read_text(encoding="utf-8"))["never"]["files"])


def check_sets(data: Path, sets: Mapping[str, DataSet]) -> dict[str, dict[str, list[Path]]]:
    """The files of each split of each data set.

    Raises:
        SplitError: a file is in two splits or two data sets, or may not be judged on.
    """
    table = {name: data_set.divided(data) for name, data_set in sets.items()}
    owner: dict[Path, str] = {}
    never = never_judged(data)
    for name, splits in table.items():
        for path in (path for files in splits.values() for path in files):
            if owner.setdefault(path, name) != name:
                raise SplitError(f"{path.relative_to(data)} is in two data sets: {owner[path]} and {name}.")
            if path in never:
                raise SplitError(f"{path.relative_to(data)} of {name} has been seen by the start weights.")
    return table


def unlisted(data: Path, sets: Mapping[str, DataSet]) -> list[Path]:
    """Images in `data` that no split has."""
    listed = {path for splits in check_sets(data, sets).values() for files in splits.values() for path in files}
    images = {path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES}
    return sorted(images - listed - never_judged(data))


def _found(data: Path, patterns: tuple[str, ...] | list[str]) -> set[Path]:
    return {path for pattern in patterns for path in data.glob(pattern) if path.is_file()}


def log_look(split: str, command: str, why: str, log: Path | None = None) -> None:
    """Write a look at a validation or test split down; the same look on the same day only once.

    Args:
        split: one of `SPLITS`; nothing is written for tuning images.
        command: as a reader can type it.
        why: the reason of the look, in a few words.
        log: the file; None for the log of the project.

    Raises:
        SplitError: there is no reason.
    """
    if split == "tuning":
        return
    if not why.strip():
        raise SplitError(f"a look at {split} images is written down: say what for with --why TEXT.")
    log = log or LOOKS
    text = log.read_text(encoding="utf-8") if log.is_file() else HEAD
    shown = (" ".join(value.replace("|", "/").replace("`", "'").split()) for value in (command, why))
    line = f"| {date.today().isoformat()} | {split} | {' | '.join(shown)} |\n"
    if line not in text:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text + line, encoding="utf-8")


def main() -> None:
    """Count the files of each split, and name those that have none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the evaluation images")
    args = parser.parse_args()
    sets = load_sets()
    for name, splits in check_sets(args.data, sets).items():
        print(f"{name:10} " + "  ".join(f"{split} {len(files)}" for split, files in splits.items()))
    for path in unlisted(args.data, sets):
        print(f"in no split: {path.relative_to(args.data)}")


if __name__ == "__main__":
    main()
