"""Write files atomically: the target is either the old file or the whole new one, never a part of it.

The content goes to a temporary file in the folder of the target and is flushed to the disk. Then the
temporary file is renamed over the target, which POSIX and Windows do in one step. A failure (disk
full, Ctrl-C, an exception) removes the temporary file. A power cut or `kill -9` may leave a hidden
`.<hex>.partial<suffix>` beside the target, but the target is unchanged. The process that writes such a file holds a
lock on it. So the next run can tell leftovers from files of a process that is still writing (`remove_leftovers`). The
first file that a process writes into a folder removes those in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from self2self.errors import OutputError, ResourceError, another_output, typed, writing
from self2self.machine.marks import Mark, mark_file

LONGEST_NAME = 255
"""Bytes of the longest name of a file that usual file systems take."""
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.partial(\.[^/]*)?")
"""Names of our temporary files, and of folders that are being removed."""
_cleaned: set[Path] = set()
"""Folders from which this process has removed leftovers before it wrote into them."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], instead: str = "", mark: Mark | None = None) -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` when the block ends without an error.

    The temporary file exists (empty) when the block begins. It has the suffix of `path`, because many
    writers choose the format by the suffix. A symbolic link is followed, not replaced. An existing
    target keeps its permissions.

    Args:
        path: the target.
        instead: as for `errors.writing`, if `path` cannot be written.
        mark: says which job made the file; None for none.

    Raises:
        ResourceError: no space is left, or a quota or file size limit is reached.
        OutputError: the folder is missing or read-only, or `path` is not a regular file. Any
            other `OSError` of the block also counts as a failure to write `path`.
    """
    with writing(path, instead):
        target = Path(path).resolve()
        _check_regular(target, str(path), instead)
        _clean_once(target.parent)
        with _new_temporary(target) as temporary:
            yield temporary
            if mark is not None:
                mark_file(temporary, mark)
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(target.stat().st_mode & 0o7777)
            temporary.replace(target)
    _flush_folder(target.parent)


def atomic_write(
    path: str | os.PathLike[str],
    data: bytes | bytearray | memoryview,
    instead: str = "",
    mark: Mark | None = None,
) -> None:
    """Write `data` to `path` so that no reader ever sees a part of it.

    Args:
        path: the target.
        data: the whole content.
        instead: as for `atomic_path`.
        mark: as for `atomic_path`.

    Raises:
        ResourceError: no space is left, or a quota or file size limit is reached.
        OutputError: the folder is missing or read-only, or `path` is not a regular file.
    """
    with atomic_path(path, instead, mark) as temporary, temporary.open("wb") as file:
        file.write(data)


def hidden_sibling(target: Path, ending: str) -> Path:
    """The hidden path beside `target` that has its name and `ending`; of a name that is too long, a part.

    Args:
        target: a file or folder, which need not exist.
        ending: ASCII.
    """
    name = f".{target.name}{ending}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
        name = f".{cut(target.name, LONGEST_NAME // 2)}.{digest}{ending}"
    return target.with_name(name)


def cut(name: str, most: int) -> str:
    """The beginning of `name` that takes at most `most` bytes in a file system."""
    return name.encode("utf-8", "ignore")[:most].decode("utf-8", "ignore")


def is_temporary(path: Path) -> bool:
    """Whether the name of `path` is that of a temporary file of ours, or of a folder that is being removed."""
    return _TEMPORARY.fullmatch(path.name) is not None


def holds_only_leftovers(folder: Path) -> bool:
    """Whether `folder` is empty but for temporary files, as after a kill before its first file was complete."""
    return folder.is_dir() and all(is_temporary(path) for path in folder.iterdir())


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes left in `folder`; those of living processes stay.

    A living process holds a lock on its temporary files. Where the system or the file system has no locks, nothing is
    removed.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry.path) for entry in entries if _TEMPORARY.fullmatch(entry.name)]:
            with contextlib.suppress(OSError), _locked(path) as is_ours:
                if is_ours:
                    _remove(path)


def _clean_once(folder: Path) -> None:
    """Remove the leftovers in `folder`, once in a process: to look for them in a full folder takes time."""
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_leftovers(folder)


def temporary_folder() -> Path:
    """The system's folder of temporary files.

    Raises:
        ResourceError: none takes a file.
    """
    import tempfile

    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        # Python has tried to write a few bytes into each.
        raise ResourceError(
            f"no folder for temporary files takes a file ({error.strerror}), perhaps for lack of space. Free some disk "
            "space or name another folder by TMPDIR."
        ) from error


@contextlib.contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder for the time of the block, which no other user can read.

    It is removed in the end. After a kill, it is a leftover that the next one removes.

    Args:
        parent: where it is made; None for the system's folder of temporary files.

    Raises:
        OutputError, ResourceError: it cannot be made.
    """
    instead = "name another folder by " + ("TMPDIR" if parent is None else "SELF2SELF_CACHE")
    parent = temporary_folder() if parent is None else parent
    with writing(parent, instead):
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent)
        folder, handle = _create_locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove `folder` with all that is in it; a kill leaves it whole, or a leftover for `remove_leftovers`.

    Raises:
        OSError: it cannot be removed.
    """
    if not folder.is_dir():
        return
    doomed = folder.with_name(f".{os.urandom(6).hex()}.partial")
    with _locked(folder):
        folder.rename(doomed)
        _remove(doomed)


@contextlib.contextmanager
def _new_temporary(target: Path) -> Iterator[Path]:
    """Make an empty, locked temporary file for `target`; it is removed if the block fails."""
    temporary, handle = _create_locked(target)
    try:
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        if handle is not None:
            os.close(handle)


def _create_locked(target: Path) -> tuple[Path, int | None]:
    """Create a temporary file for `target`; returns its path, and a handle that holds the lock until it is closed.

    The handle is None where there are no locks. One of these systems, Windows, renames no open file.
    """
    while True:
        temporary = target.with_name(f".{os.urandom(6).hex()}.partial{target.suffix}")
        # tempfile.mkstemp would set mode 0600, so that no other user could read the result.
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        # Another process may have taken the file for a leftover before it was locked.
        locked = _lock(handle)
        if locked and temporary.exists():
            return temporary, handle
        os.close(handle)
        if locked is None:
            return temporary, None


def _create_locked_folder(parent: Path) -> tuple[Path, int | None]:
    """As `_create_locked`, for a folder in `parent`."""
    while True:
        folder = parent / f".{os.urandom(6).hex()}.partial"
        folder.mkdir(mode=0o700)
        try:
            handle = os.open(folder, os.O_RDONLY)
        except PermissionError:
            # Windows opens no folders.
            return folder, None
        except FileNotFoundError:
            # Another process has taken it for a leftover.
            continue
        if _lock(handle) is not False and folder.exists():
            return folder, handle
        os.close(handle)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock `path` until the end of the block; False if another process has locked it, or there are no locks."""
    try:
        # A pipe of such a name would keep us waiting.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except PermissionError:
        # Windows opens no folders, and other users' files are theirs.
        yield False
        return
    try:
        yield _lock(handle) is True
    finally:
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Lock an open file until it is closed: False if another process has locked it, None if there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_new(path: str | os.PathLike[str], *, force: bool, option: str = "", instead: str = "") -> None:
    """Check that `path` can be written, so that a command fails before its slow part and not after it.

    Args:
        path: the file that the command will write.
        force: whether an existing file may be replaced.
        option: the command-line option that named the file, for the message; empty if `path` alone is clear.
        instead: as for `atomic_path`.

    Raises:
        OutputError: the folder is missing or read-only, or `path` is not a regular file, or exists without `force`.
        ResourceError: the disk is full.
    """
    import tempfile

    label, target = f"{option} {path}".lstrip(), Path(path)
    with writing(label, instead):
        folder = target.resolve().parent
        if not folder.is_dir():
            raise OutputError(f"{label}: the folder {folder} does not exist. Create it with mkdir -p {folder}")
        _check_regular(target, label, instead)
        if target.exists() and not force:
            raise OutputError(
                f"{label}: exists already. Replace it with {typed('--force')}, or {instead or another_output()}."
            )
        # Only a trial write checks permissions, read-only mounts and quotas together.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")


def _check_regular(target: Path, label: str, instead: str) -> None:
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise OutputError(f"{label}: is {kind}; expected the name of a file. {_sentence(instead or another_output())}")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _flush_folder(folder: Path) -> None:
    """Make the rename survive a power cut, on systems that can flush a folder; the data are flushed on all systems."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
