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

A message is one line: what is wrong, what was got, what was expected, and what to type instead. It names an option by
`typed`, so that each front end has its own words: `--force` on the command line, `force=True` in Python.
Any exception outside this tree is a bug: exit code 1, with a traceback.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ClassVar, Self

FLAGS = ("--allow-fallback", "--force", "--iqa", "--mosaic", "--recursive", "--wait")
"""Options that messages name and that take no value; their opposites begin with ``--no-``."""
_ARGUMENTS = {"-o": "output", "--masks": "balanced"}
"""Names of arguments that are not those of their options."""
_BYTES = {"MB": "10**6", "GB": "10**9"}

Words = Callable[[str, str], str]
"""How a front end calls an option: a function of its name on the command line, and its value, which may be empty."""


def as_option(option: str, value: str) -> str:
    """The option as the command line has it: ``--engine ort``."""
    return f"{option} {value}".rstrip()


def as_argument(option: str, value: str) -> str:
    """The option as an argument of a function, or a field of `FitOptions` or its like: ``engine="ort"``."""
    if option in FLAGS or option.startswith("--no-"):
        return f"{option.removeprefix('--no-').removeprefix('--').replace('-', '_')}={not option.startswith('--no-')}"
    name = _ARGUMENTS.get(option, option.lstrip("-").replace("-", "_"))
    if size := re.fullmatch(r"(\d+)([MG]B)", value):
        value = f"{size[1]} * {_BYTES[size[2]]}"
    elif not re.fullmatch(r"|-?\d[\d.]*|N|S|CLEAN|FILE|RUN", value):
        # A number stands as it is, and so does what the user has to fill in, such as FILE.
        value = f'"{value}"'
    return f"{name}={value}" if value else name


def as_controls(controls: Mapping[str, str]) -> Words:
    """How a window calls an option: by the label of its control in `controls`, or else as that of the command."""

    def name(option: str, value: str) -> str:
        if option in controls:
            return f"{controls[option]} {value}".rstrip()
        return f"{as_option(option, value)} of the command self2self denoise"

    return name


_words: Words = as_argument


@contextmanager
def speaking(words: Words) -> Iterator[None]:
    """Within the block, messages of this process name options by `words`."""
    global _words
    before, _words = _words, words
    try:
        yield
    finally:
        _words = before


def words() -> Words:
    """How messages of this process name options now."""
    return _words


def speaking_as(front_end: Words, function: Callable[[Any], Any], argument: Any) -> Any:
    """Call `function` as `speaking` does, in a process that works for another one."""
    with speaking(front_end):
        return function(argument)


def typed(option: str, value: object = "") -> str:
    """An option in a message, as the user of this front end knows it.

    Args:
        option: as on the command line: ``"--force"``, or with a value ``"--engine ort"``.
        value: the value, if `option` has none.
    """
    name, _, own_value = option.partition(" ")
    return _words(name, own_value or str(value))


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
    def of(cls, engine: str, cause: Obstacle, reason: str, fix: str = "", instead: str = "") -> Self:
        """Build the error of `engine`; its message joins `reason`, `fix` and `instead`.

        Args:
            engine: name of the engine.
            cause: why it does not work.
            reason: the cause in words, without a full stop.
            fix: sentence with what the user can do; may be empty.
            instead: sentence with what works without a fix; by default, the choice of another engine.
        """
        instead = instead or f"Use {typed('--engine auto')}."
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


def another_output() -> str:
    """What the user can do where an output cannot be written, for the end of a message."""
    return f"choose another place with {typed('-o')}"


@contextmanager
def writing(path: str | os.PathLike[str], instead: str = "") -> Iterator[None]:
    """Turn an `OSError` of the block, which writes `path`, into an error with one line for the user.

    Args:
        path: the file or folder that the block writes.
        instead: what the user can do, for the end of the message; by default, the choice of another output.

    Raises:
        ResourceError: no space is left, or a quota or file size limit is reached.
        OutputError: the folder is missing or read-only, or `path` is a folder.
    """
    try:
        yield
    except OSError as error:
        instead = instead or another_output()
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
