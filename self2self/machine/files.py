"""Files that are either the old one or the whole new one, never a half.

The content goes to a temporary name in the folder of the target, is flushed to the disk, and is
then renamed over the target, which POSIX and Windows do in one step. A failure (disk full,
Ctrl-C, an exception) removes the temporary file; after a power cut or `kill -9` a hidden
`.<hex>.partial<suffix>` may be left beside the target, which itself is untouched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from self2self.errors import OutputError, writing


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], instead: str = "choose another place with -o") -> Iterator[Path]:
    """Lend a temporary path whose file replaces `path` when the block ends without an error.

    The temporary file exists (empty) when the block begins and has the suffix of `path`, because
    many writers choose the format by it. A symbolic link is followed, not replaced. An existing
    target keeps its permissions. `instead` is what a user can do where `path` cannot be written.

    Raises:
        ResourceError: no space is left, or a quota or file size limit is reached.
        OutputError: the folder is missing or read-only, or `path` is not a regular file. Any
            other `OSError` of the block counts as a failure to write `path`.
    """
    with writing(path, instead):
        target = Path(path).resolve()
        _check_regular(target, str(path), instead)
        temporary = target.with_name(f".{os.urandom(6).hex()}.partial{target.suffix}")
        # Not tempfile.mkstemp: its 0600 would hide the result from everyone else.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(target.stat().st_mode & 0o7777)
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    _flush_folder(target.parent)


def atomic_write(
    path: str | os.PathLike[str],
    data: bytes | bytearray | memoryview,
    instead: str = "choose another place with -o",
) -> None:
    """Write `data` to `path` so that no reader ever sees a part of it; `instead` as for `atomic_path`.

    Raises:
        ResourceError: no space is left, or a quota or file size limit is reached.
        OutputError: the folder is missing or read-only, or `path` is not a regular file.
    """
    with atomic_path(path, instead) as temporary, temporary.open("wb") as file:
        file.write(data)


def check_new(
    path: str | os.PathLike[str], *, force: bool, option: str = "", instead: str = "choose another place with -o"
) -> None:
    """Refuse a file that could not be written in the end, before anything slow happens.

    Args:
        path: the file to come.
        force: whether it may be there already.
        option: that named it, for the message; none where `path` alone is clear.
        instead: as for `atomic_path`.

    Raises:
        OutputError: the folder is missing or read-only, or `path` is not a regular file, or exists without `force`.
        ResourceError: the disk is full.
    """
    import tempfile

    shown, target = f"{option} {path}".lstrip(), Path(path)
    with writing(shown, instead):
        folder = target.resolve().parent
        if not folder.is_dir():
            raise OutputError(f"{shown}: the folder {folder} does not exist. Create it with mkdir -p {folder}")
        _check_regular(target, shown, instead)
        if target.exists() and not force:
            raise OutputError(f"{shown}: exists already. Replace it with --force, or {instead}.")
        # Permissions, read-only mounts and quotas in one: only trying tells.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")


def _check_regular(target: Path, shown: str, instead: str) -> None:
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise OutputError(f"{shown}: is {kind}; expected the name of a file. {_sentence(instead)}")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; not every system can, and then the data still do."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
