"""The manifest of a command with many images: a file with one line of JSON for each change of an image's state.

The last line of an image counts. A line is added by one write at the end of the file, so several processes may share a
manifest, and a kill leaves at most one line without its end, which the next command closes.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from self2self.errors import OutputError, Self2SelfError, typed, writing
from self2self.jobs.results import Result

State = Literal["waiting", "written", "done already", "skipped", "failed"]

KEPT = ("output", "noise", "residual", "passes", "plain", "pages")
"""Entries of the JSON document of a result that its line has."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that lines are added to.

    Attributes:
        path: of the file.
    """

    path: Path

    def begin(self, images: list[Path]) -> None:
        """Add a line for every image that waits, so that the file tells what a stopped command has left.

        Raises:
            OutputError, ResourceError: the file cannot be written.
        """
        if self.path.is_dir():
            raise OutputError(
                f"{typed('--manifest', self.path)}: is a folder; expected a file. Type: "
                f"{typed('--manifest images.jsonl')}"
            )
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.is_file() and self.path.stat().st_size > 0 and not _ends_with_newline(self.path)
        self._add(("\n" if torn else "") + "".join(_line(image, "waiting") for image in images))

    def skipped(self, image: Path) -> None:
        """The result for `image` exists already."""
        self._add(_line(image, "skipped"))

    def finished(self, image: Path, result: Result, seconds: float) -> None:
        """`image` is done."""
        values = result.to_json()
        kept: dict[str, Any] = {key: values[key] for key in KEPT if values.get(key) is not None}
        if isinstance(kept.get("pages"), list):
            kept["pages"] = len(kept["pages"])
        state: State = "done already" if values.get("done_already") else "written"
        self._add(_line(image, state, **kept, seconds=round(seconds, 3)))

    def failed(self, image: Path, error: Self2SelfError, seconds: float) -> None:
        """`image` cannot be denoised."""
        self._add(_line(image, "failed", error=str(error), exit_code=error.exit_code, seconds=round(seconds, 3)))

    def _add(self, text: str) -> None:
        with writing(self.path), self.path.open("ab") as file:
            file.write(text.encode())


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each image, by the image; lines that a kill has cut off are left out.

    Raises:
        OSError: the file cannot be read.
    """
    lines: dict[str, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(text)
            lines[values["image"]] = values
        except (ValueError, KeyError, TypeError):
            continue
    return lines


def _line(image: Path, state: State, **more: Any) -> str:
    values = {"image": str(image), "state": state, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **more}
    return json.dumps(values, ensure_ascii=True) + "\n"


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
