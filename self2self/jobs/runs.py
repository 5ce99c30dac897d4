"""`self2self runs`: list the runs that nobody named, and remove those that are not needed any more."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from self2self.errors import BusyError, FileFormatError, InputError
from self2self.jobs.observer import Observer
from self2self.machine.files import is_temporary, remove_folder, remove_leftovers
from self2self.machine.locks import folder_lock, is_used
from self2self.train.run_folder import LOCAL_RUNS, Run, cached_runs

DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run on disk.

    Attributes:
        run: the run folder.
        bytes: size of all files in it.
        last_use: when it was written or used last, in seconds since 1970.
        image: path of the image that it was fitted to; None where that cannot be read.
    """

    run: Run
    bytes: int
    last_use: float
    image: str | None

    @property
    def age_days(self) -> float:
        """Days since the last use."""
        return max(0.0, (time.time() - self.last_use) / DAY_SECONDS)

    def to_json(self) -> dict[str, object]:
        """The entry of ``self2self runs list --json``."""
        return {
            "run": str(self.run.folder),
            "image": self.image,
            "bytes": self.bytes,
            "finished": self.run.is_fitted(),
            "last_use": self.last_use,
        }


def list_runs() -> list[StoredRun]:
    """The runs in the cache folder and in `LOCAL_RUNS` of the working directory; those used last come first."""
    roots = {root.resolve(): root for root in (cached_runs(), LOCAL_RUNS)}
    return sorted((run for root in roots.values() for run in _runs_in(root)), key=lambda run: -run.last_use)


def removable_runs(older_than_days: float) -> list[StoredRun]:
    """The runs in the cache folder whose last use is more than `older_than_days` ago.

    Runs in other folders have been put there by someone, and are never among them.
    """
    return [stored for stored in _runs_in(cached_runs()) if stored.age_days >= older_than_days]


def remove_runs(stored_runs: list[StoredRun], observer: Observer) -> list[StoredRun]:
    """Remove runs; returns those that are gone.

    Runs in which another process is working, or which hold anything that self2self has not put there, stay; `observer`
    gets a note about each.
    """
    removed = []
    for stored in stored_runs:
        obstacle = _obstacle(stored.run)
        if obstacle:
            observer.note(f"{stored.run.folder}: {obstacle}, so it stays.")
        else:
            removed.append(stored)
    # Also without a run: a killed command may have left a part of the last one.
    for root in {cached_runs(), *(stored.run.folder.parent for stored in stored_runs)}:
        remove_leftovers(root)
    return removed


def _obstacle(run: Run) -> str:
    """Remove the folder of `run`; returns what prevents that, or an empty text."""
    try:
        with folder_lock(run.folder):
            if is_used(run.config_path):
                return "is in use"
            if foreign := run.foreign_files():
                return f"holds what is no part of a run ({', '.join(foreign)})"
            remove_folder(run.folder)
    except BusyError:
        return "is in use"
    except OSError as error:
        return f"cannot be removed ({error.strerror})"
    return ""


def _runs_in(root: Path) -> list[StoredRun]:
    folders = sorted(root.iterdir()) if root.is_dir() else []
    runs = [Run(folder) for folder in folders if not folder.is_symlink() and not is_temporary(folder)]
    return [_stored(run) for run in runs if run.config_path.is_file()]


def _stored(run: Run) -> StoredRun:
    try:
        image = run.config().image
    except (InputError, FileFormatError):
        image = None
    return StoredRun(run, _bytes_in(run.folder), run.last_use(), image)


def _bytes_in(folder: Path) -> int:
    """Size of all files in `folder`; those that vanish meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:
                continue
    return total
