"""Write files atomically: the target is either the old file or the whole new one, never a part of it.

The content goes to a temporary file in the folder of the target and is flushed to the disk. Then the
temporary file is renamed over the target, which POSIX and Windows do in one step. A failure (disk
full, Ctrl-C, an exception) removes the temporary file. A power cut or `kill -9` may leave a hidden
`.<hex>.partial<suffix>` beside the target, but the target is unchanged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from self2self.errors import OutputError, writing


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], instead: str = "choose another place with -o") -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` when the block ends without an error.

    The temporary file exists (empty) when the block begins. It has the suffix of `path`, because many
    writers choose the format by the suffix. A symbolic link is followed, not replaced. An existing
    target keeps its permissions.

    Args:
        path: the target.
        instead: what the user can do if `path` cannot be written, for the end of the message.

    Raises:
        ResourceError: no space is left, or a quota or file size limit is reached.
        OutputError: the folder is missing or read-only, or `path` is not a regular file. Any
            other `OSError` of the block also counts as a failure to write `path`.
    """
    with writing(path, instead):
        target = Path(path).resolve()
        _check_regular(target, str(path), instead)
        temporary = target.with_name(f".{os.urandom(6).hex()}.partial{target.suffix}")
        # tempfile.mkstemp would set mode 0600, so that no other user could read the result.
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
    """Write `data` to `path` so that no reader ever sees a part of it.

    Args:
        path: the target.
        data: the whole content.
        instead: as for `atomic_path`.

    Raises:
        ResourceError: no space is left, or a quota or file size limit is reached.
        OutputError: the folder is missing or read-only, or `path` is not a regular file.
    """
    with atomic_path(path, instead) as temporary, temporary.open("wb") as file:
        file.write(data)


def check_new(
    path: str | os.PathLike[str], *, force: bool, option: str = "", instead: str = "choose another place with -o"
) -> None:
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
            raise OutputError(f"{label}: exists already. Replace it with --force, or {instead}.")
        # Only a trial write checks permissions, read-only mounts and quotas together.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")


def _check_regular(target: Path, label: str, instead: str) -> None:
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise OutputError(f"{label}: is {kind}; expected the name of a file. {_sentence(instead)}")


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
