"""Define every error that a user can cause or meet, in one class tree.

::

    Self2SelfError                  exit  meaning
    ├── UsageError                    2   an option or a combination of options is wrong
    │   └── OutputError               2   the output cannot be written where it was asked for
    ├── InputError                    3   the image cannot be used
    ├── EngineUnavailableError        4   an engine or an optional package is missing or does not work
    ├── ResourceError                 5   memory or disk space ran out
    ├── FileFormatError               6   a model, run or engine file is damaged, foreign or of another version
    │   └── VerificationError         6   an exported model does not compute what PyTorch computes
    ├── BusyError                     7   another process is working in the same folder
    ├── StdoutError                   8   the result was made, but cannot be printed
    └── InterruptedRun              130   Ctrl-C; finished work is kept

A message is one line: what is wrong, what was got, what was expected, and what to type instead.
Any exception outside this tree is a bug: exit code 1, with a traceback.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import ClassVar, Self


class Self2SelfError(Exception):
    """Base of all errors that the user sees as one line."""

    exit_code: ClassVar[int] = 1


class UsageError(Self2SelfError):
    """An option, or a combination of options, is wrong."""

    exit_code = 2


class OutputError(UsageError):
    """The output cannot be written where it was asked for."""


class InputError(Self2SelfError):
    """The image, or another input file, cannot be used."""

    exit_code = 3


class Obstacle(StrEnum):
    """Reason why an engine does not work; `self2self engines --json` writes the value as ``cause``."""

    NOT_INSTALLED = "not-installed"
    DOES_NOT_LOAD = "does-not-load"
    NO_DRIVER = "no-driver"
    NO_GPU = "no-gpu"
    DRIVER_BROKEN = "driver-broken"
    DRIVER_TOO_OLD = "driver-too-old"
    GPU_NOT_SERVED = "gpu-not-served"
    BOTH_PACKAGES = "both-onnxruntime-packages"
    CPU_WITHOUT_AMX = "cpu-without-amx"
    CPU_WITHOUT_VNNI = "cpu-without-vnni"
    NO_PROVIDER = "provider-not-in-build"
    LIBRARY_MISSING = "library-missing"
    LIBRARY_VERSION = "library-of-another-version"
    LIBRARY_HIDDEN = "library-not-searched"
    TORCH_WITHOUT_CUDA = "torch-without-cuda"
    FELL_BACK = "fell-back"
    WRONG_RESULT = "wrong-result"
    CRASHED = "crashed"
    TIMED_OUT = "timed-out"
    OTHER = "other"


class EngineUnavailableError(Self2SelfError):
    """An engine or an optional dependency is missing or does not work here.

    Attributes:
        cause: why the engine does not work, for programs.
        reason: the same cause in words, without a full stop.
        fix: what the user can do, with the line to type where there is one; may be empty.
    """

    exit_code = 4
    cause = Obstacle.OTHER
    reason = ""
    fix = ""

    @classmethod
    def of(cls, engine: str, cause: Obstacle, reason: str, fix: str = "", instead: str = "Use --engine auto.") -> Self:
        """Build the error of `engine`; its message joins `reason`, `fix` and `instead`.

        Args:
            engine: name of the engine.
            cause: why it does not work.
            reason: the cause in words, without a full stop.
            fix: sentence with what the user can do; may be empty.
            instead: sentence with what works without a fix.
        """
        error = cls(" ".join(filter(None, [f"engine {engine}: {reason}.", fix, instead])))
        error.cause, error.reason, error.fix = cause, reason, fix
        return error


class ResourceError(Self2SelfError):
    """Memory or disk space ran out."""

    exit_code = 5


class FileFormatError(Self2SelfError):
    """A model, run or engine file is damaged, foreign or of another version."""

    exit_code = 6


class VerificationError(FileFormatError):
    """An exported model does not compute what PyTorch computes."""


class BusyError(Self2SelfError):
    """Another process is working in the same folder."""

    exit_code = 7


class StdoutError(Self2SelfError):
    """The result was made and written, but standard output cannot take its description."""

    exit_code = 8


class InterruptedRun(Self2SelfError):  # noqa: N818 - not an error, but it ends the command
    """The user pressed Ctrl-C; the work that was finished so far stays on disk."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return the first line of a library's exception, or the name of its class if it has no text."""
    return first_line_of(str(error)) or type(error).__name__


def first_line_of(message: str) -> str:
    """Return the first line of a library's message, cut to 200 characters to fit into our one-line messages."""
    lines = message.strip().splitlines()
    return lines[0][:200] if lines else ""


def shown(*texts: str | bytes) -> str:
    """Return texts from a file for a message: joined, cut to 200 characters, without any that steer a terminal.

    A library may return text that is not UTF-8 as bytes.
    """
    joined = ", ".join(text if isinstance(text, str) else text.decode(errors="replace") for text in texts)
    return "".join(letter if letter.isprintable() else "?" for letter in joined[:200])


@contextmanager
def writing(path: str | os.PathLike[str], instead: str = "choose another place with -o") -> Iterator[None]:
    """Turn an `OSError` of the block, which writes `path`, into an error with one line for the user.

    Args:
        path: the file or folder that the block writes.
        instead: what the user can do, for the end of the message.

    Raises:
        ResourceError: no space is left, or a quota or file size limit is reached.
        OutputError: the folder is missing or read-only, or `path` is a folder.
    """
    try:
        yield
    except OSError as error:
        # numpy reports a full disk without an errno: its message counts the items that were not written.
        unwritten = error.errno is None and " requested and " in str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or unwritten:
            raise ResourceError(
                f"{path}: no space left to write it; nothing was changed. Free some disk space or {instead}."
            ) from error
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot be written ({reason}). {instead[:1].upper()}{instead[1:]}.") from error


@contextmanager
def pytorch_memory() -> Iterator[None]:
    """Turn what PyTorch raises when the host or the GPU lacks memory into a MemoryError, also when it is loaded."""
    try:
        yield
    except (ImportError, OSError) as error:
        # The loader of libraries says so where the limit of the address space is too low for one of them.
        if any(text in str(error) for text in ("failed to map segment", "annot allocate memory")):
            raise MemoryError(first_line(error)) from error
        raise
    except RuntimeError as error:
        message = first_line(error)
        # The last message is oneDNN's. It says "a primitive descriptor" if it lacks the operation and not the memory.
        if (
            "allocate memory" in str(error)
            or "out of memory" in str(error)
            or message == "could not create a primitive"
        ):
            raise MemoryError(message) from error
        raise
