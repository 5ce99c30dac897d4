"""Lock a folder or an output against other processes, and say who holds the lock.

The lock of a folder is on the folder itself (`flock`), so no lock file stays behind, and it ends with the process,
however that ends. That of an output is on a temporary file beside it, as the output may not exist yet. Where the system
or the file system has no locks, nothing is locked; a network file system may also grant one lock to two machines.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from self2self.errors import BusyError, typed, writing

_POLL_SECONDS = 0.5
_TRIES, _TRY_SECONDS = 20, 0.02
"""Whoever removes leftovers holds the lock of each for a moment."""
_held = threading.local()


@contextmanager
def folder_lock(folder: Path, *, wait: bool = False, instead: str = "") -> Iterator[None]:
    """Lock `folder`, which exists, until the end of the block; a thread that holds the lock may take it again.

    Args:
        folder: the folder.
        wait: whether to wait while another process holds the lock.
        instead: what the user can do instead of waiting, for the end of the message.

    Raises:
        BusyError: another process or thread holds the lock, and `wait` is off.
    """
    mine: set[Path] = _held.__dict__.setdefault("folders", set())
    place = folder.resolve()
    if place in mine:
        yield
        return
    handle = os.open(place, os.O_RDONLY) if os.name == "posix" else None
    try:
        while handle is not None and not _lock(handle):
            if not wait:
                raise BusyError(
                    f"{folder}: another command is working there ({holder(folder)}). Wait until it ends, let this "
                    f"command wait with {typed('--wait')}{instead and ', or '}{instead}."
                )
            time.sleep(_POLL_SECONDS)
        mine.add(place)
        yield
    finally:
        mine.discard(place)
        if handle is not None:
            os.close(handle)


@contextmanager
def output_lock(output: Path, *, wait: bool = False) -> Iterator[bool]:
    """Keep other commands from writing the file `output`, in a folder that exists, until the end of the block.

    After a kill, the file with the lock is a leftover (`files.remove_leftovers`), which the next command takes over.

    Args:
        output: the file, which need not exist.
        wait: whether to wait while another command writes it.

    Yields:
        whether this call has waited, so that the output may be another one than before.

    Raises:
        BusyError: another process or thread writes it, and `wait` is off.
        OutputError, ResourceError: nothing can be written in the folder.
    """
    if os.name != "posix":
        yield False
        return
    target = output.resolve()
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
    place = target.with_name(f".{name}.partial.lock")
    tries, waited = 0, False
    while (handle := _lock_new(place, output)) is None:
        tries += 1
        if tries < _TRIES:
            time.sleep(_TRY_SECONDS)
        elif not wait:
            raise BusyError(
                f"{output}: another command is writing it ({holder(place)}). Wait until it ends, let this command wait "
                f"with {typed('--wait')}, or choose another place with {typed('-o')}."
            )
        else:
            waited = True
            time.sleep(_POLL_SECONDS)
    try:
        yield waited
    finally:
        # Before the lock ends: a file that another command has locked by then would not be the one at this place.
        with suppress(OSError):
            place.unlink()
        os.close(handle)


def _lock_new(place: Path, output: Path) -> int | None:
    """Make the file at `place` where it is missing, and lock it; its handle, or None if another process has it."""
    while True:
        with writing(output):
            handle = os.open(place, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            if not _lock(handle):
                os.close(handle)
                return None
            # The command that held the lock may have removed the file since it was opened.
            if os.fstat(handle).st_ino == place.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


@contextmanager
def use_of(path: Path) -> Iterator[None]:
    """Mark the file `path` as in use until the end of the block; several processes may do so at once.

    Where there is no such file, or there are no locks, nothing is marked.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        _lock(handle, shared=True)
        yield
    finally:
        os.close(handle)


def is_used(path: Path) -> bool:
    """Whether another process or thread has marked the file `path` by `use_of`; False where there are no locks."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def holder(folder: Path, locks: Path = Path("/proc/locks")) -> str:
    """The process that has locked a folder or file, and since when it runs, in words; Linux lists them in `locks`."""
    import psutil

    try:
        inode = folder.stat().st_ino
        lines = [line.split() for line in locks.read_text().splitlines()]
        owner = next(int(fields[4]) for fields in lines if fields[1] == "FLOCK" and _inode(fields[5]) == inode)
        process = psutil.Process(owner)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.create_time()))
        return f"process {owner}, {process.name()}, since {since}"
    except (OSError, ValueError, IndexError, StopIteration, psutil.Error):
        return "the system does not say which"


def _inode(place: str) -> int:
    """The inode of an entry such as ``fe:00:1234``: device and inode."""
    return int(place.rpartition(":")[2])


def _lock(handle: int, *, shared: bool = False) -> bool:
    """Try to lock an open file or folder; True also where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
