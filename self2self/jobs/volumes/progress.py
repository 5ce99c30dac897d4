"""Which blocks of a volume are done: a hidden folder beside the result, until that is finished.

=====================  ===========================================================================================
``volume.json``        the volume and all settings; with others, the command is refused, or starts anew
``plan.json``          what was decided before the first block (`plan`)
``<digest>.onnx``      the models of the plan
``fit``                run folders of the fits, unless the user names another place
``blocks-*.jsonl``     a line for each finished block; each process writes a file of its own
``volume.zarr``        the result of a zarr in the making
``blocks``             finished blocks of an HDF5 file or a TIFF
=====================  ===========================================================================================

A block is done when its line is there, which is added after its values. Any set of blocks may be done.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from self2self.errors import FileFormatError, UsageError, typed, writing
from self2self.jobs.volumes.group_plan import GroupPlan
from self2self.jobs.worker import ModelFile
from self2self.machine.files import atomic_write, holds_only_leftovers, remove_folder, remove_leftovers

SETTINGS_FILE, PLAN_FILE, LINES = "volume.json", "plan.json", "blocks-*.jsonl"
PROGRESS_FORMAT = 2


class Progress:
    """The finished blocks of one volume.

    Attributes:
        folder: the folder.
    """

    def __init__(self, output: Path, folder: Path) -> None:
        self._output, self.folder = output, folder
        self._lines: Path | None = None

    def open(self, settings: dict[str, Any], *, force: bool) -> None:
        """Go on with blocks that were made with the same `settings`, or begin.

        Args:
            settings: everything that decides the bits of a block; JSON values.
            force: whether to remove blocks that were made with other settings.

        Raises:
            UsageError: there are blocks with other settings, or other files.
            OutputError, ResourceError: the folder cannot be made.
        """
        path = self.folder / SETTINGS_FILE
        settings = json.loads(json.dumps({"format": PROGRESS_FORMAT, **settings}, default=str))
        if path.is_file():
            stored = _read(path)
            changed = sorted(key for key in {**settings, **stored} if stored.get(key) != settings.get(key))
            if not changed:
                remove_leftovers(self.folder)
                return
            if not force:
                raise UsageError(
                    f"{self._output}: was begun with other settings ({', '.join(changed)}). Give the same command to "
                    f"go on, start anew with {typed('--force')}, or choose another place with {typed('-o')}."
                )
        elif self.folder.is_dir() and not holds_only_leftovers(self.folder) and not force:
            raise UsageError(
                f"{self.folder}: is in the way and holds no blocks. Remove it, or start anew with {typed('--force')}."
            )
        self.remove()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(settings, indent=2).encode())

    @property
    def is_open(self) -> bool:
        """Whether the folder is there, with its settings."""
        return (self.folder / SETTINGS_FILE).is_file()

    def plan(self) -> list[GroupPlan] | None:
        """The plan of the groups; None before it is made.

        Raises:
            FileFormatError: it is damaged.
        """
        path = self.folder / PLAN_FILE
        if not path.is_file():
            return None
        try:
            return [GroupPlan.from_json(values) for values in _read(path)["groups"]]
        except (KeyError, TypeError) as error:
            raise _damaged(path) from error

    def keep_plan(self, groups: list[GroupPlan], models: list[ModelFile], made_of: dict[str, Any]) -> None:
        """Write the plan, and its models before it.

        Args:
            groups: the plan.
            models: of the groups.
            made_of: what was read for it, as `same_source.is_changed` takes it.

        Raises:
            OutputError, ResourceError: it cannot be written.
        """
        for model in models:
            atomic_write(self._model_path(model.sha256), model.read())
        plan = {"groups": [asdict(group) for group in groups], **made_of}
        atomic_write(self.folder / PLAN_FILE, json.dumps(plan).encode())

    def plan_made_of(self) -> dict[str, Any] | None:
        """`made_of` of the plan; None before it is made.

        Raises:
            FileFormatError: it is damaged.
        """
        path = self.folder / PLAN_FILE
        if not path.is_file():
            return None
        plan = _read(path)
        if not {"reads", "stamp"} <= plan.keys():
            raise _damaged(path)
        return plan

    def model(self, group: GroupPlan) -> ModelFile:
        """The model of a group.

        Raises:
            FileFormatError: it is missing or damaged.
        """
        path = self._model_path(group.model)
        try:
            file = ModelFile.of(path)
        except OSError as error:
            raise _damaged(path) from error
        if file.sha256 != group.model:
            raise _damaged(path)
        return file

    def records(self) -> dict[int, dict[str, Any]]:
        """The records of the finished blocks, by their numbers; lines that a kill has cut off are left out."""
        records: dict[int, dict[str, Any]] = {}
        for path in sorted(self.folder.glob(LINES)):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    values = json.loads(line)
                    records[int(values["block"])] = values
                except (ValueError, KeyError, TypeError):
                    continue
        return records

    def finished(self, record: dict[str, Any]) -> None:
        """Add the record of a block whose values are written.

        Raises:
            OutputError, ResourceError: it cannot be written.
        """
        if self._lines is None:
            # On a network file system, two machines cannot add to one file.
            self._lines = self.folder / f"blocks-{os.urandom(6).hex()}.jsonl"
        with writing(self._output), self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def remove(self) -> None:
        """Remove the folder, if it exists."""
        if self.folder.is_dir():
            with writing(self.folder):
                remove_folder(self.folder)

    def _model_path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.onnx"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(values, dict):
        raise _damaged(path)
    return values


def _damaged(path: Path) -> FileFormatError:
    return FileFormatError(f"{path}: is damaged. Start anew with {typed('--force')}.")
