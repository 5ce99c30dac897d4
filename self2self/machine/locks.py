"""Lock a folder against other processes, and say who holds the lock.

The lock is on the folder itself (`flock`), so no lock file stays behind, and it ends with the process, however that
ends. Where the system or the file system has no locks, nothing is locked; a network file system may also grant one lock
to two machines.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from self2self.errors import BusyError, typed

_POLL_SECONDS = 0.5
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
    """The process that holds the lock of `folder`, and since when it runs, in words; Linux lists them in `locks`."""
    import psutil

    inode = folder.stat().st_ino
    try:
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
