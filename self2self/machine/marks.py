"""Marks finished files with the job that made them, so that a repeated command knows its own results.

A mark is an extended attribute of the file (Linux). It is set on the temporary file before the rename, so a file never
appears without it, and no further file lies beside the results. It holds a digest of the content: a file that someone
has changed since counts as theirs. Where a file system keeps no such attributes, no file is known as ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ATTRIBUTE = "user.self2self"


@dataclass(frozen=True, slots=True)
class Mark:
    """What a finished file says of its job.

    Attributes:
        job: identifies input, settings, version and the role of the file; empty marks nothing.
        result: JSON document about the job, to print again; left out where the file system has no room for it.
        settings: what identifies the job, in words; left out where there is no room for it.
        source: what else tells of which input the file was made, short.
    """

    job: str
    result: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None
    source: dict[str, Any] | None = None


def mark_file(path: Path, mark: Mark) -> None:
    """Mark the file at `path` with its current content; does nothing where the file system keeps no attributes."""
    if not mark.job or not hasattr(os, "setxattr"):
        return
    least: dict[str, Any] = {"job": mark.job, "sha256": file_sha256(path)}
    if mark.source is not None:
        least["source"] = mark.source
    settings = {} if mark.settings is None else {"settings": mark.settings}
    result = {} if mark.result is None else {"result": mark.result}
    # An inode has room for about 4 kB.
    for values in (least | settings | result, least | settings, least):
        with contextlib.suppress(OSError):
            os.setxattr(path, _ATTRIBUTE, json.dumps(values).encode())
            return


def read_mark(path: Path, job: str | None) -> Mark | None:
    """The mark of the file at `path`, whatever its job if `job` is None.

    None if `job` did not make the file, nobody did, or its content has changed since.
    """
    if job == "" or not hasattr(os, "getxattr"):
        return None
    try:
        values = json.loads(os.getxattr(path, _ATTRIBUTE))
        if job not in (None, values["job"]) or values["sha256"] != file_sha256(path):
            return None
        return Mark(values["job"], values.get("result"), values.get("settings"), values.get("source"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def file_sha256(path: Path) -> str:
    """SHA-256 in hex of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
