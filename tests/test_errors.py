from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from self2self import errors
from self2self.errors import OutputError, ResourceError, Self2SelfError, first_line, pytorch_memory, writing


def all_errors() -> list[type[Self2SelfError]]:
    found = [errors.Self2SelfError]
    for error in found:
        found += error.__subclasses__()
    return [error for error in found if error.__module__ == "self2self.errors"]


def test_docstring_draws_exactly_the_tree_with_its_exit_codes() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d+) ", errors.__doc__ or ""))
    real = {error.__name__: str(error.exit_code) for error in all_errors() if error is not Self2SelfError}
    assert drawn == real


def test_docstring_indents_each_error_under_its_parent() -> None:
    parents: dict[int, str] = {-1: "Self2SelfError"}
    for bars, name in re.findall(r"^    ((?:│   )*)[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = len(bars) // 4
        parents[depth] = name
        assert getattr(errors, name).__base__.__name__ == parents[depth - 1]


def test_only_the_base_has_the_exit_code_of_a_bug() -> None:
    assert [error for error in all_errors() if error.exit_code in (0, 1)] == [Self2SelfError]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_resource_error_that_names_the_file(code: int) -> None:
    with (
        pytest.raises(ResourceError, match=r"^out\.tif: no space left to write it; .* -o\.$") as caught,
        writing("out.tif"),
    ):
        raise OSError(code, "full")
    assert caught.value.exit_code == 5
    assert isinstance(caught.value.__cause__, OSError)


def test_a_missing_folder_is_an_output_error_with_the_systems_reason(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "out.tif"
    reason = r"out\.tif: cannot be written \(No such file or directory\)"
    with pytest.raises(OutputError, match=reason) as caught, writing(path):
        path.write_bytes(b"")
    assert caught.value.exit_code == 2


def test_an_os_error_without_a_number_still_has_a_reason() -> None:
    with pytest.raises(OutputError, match=r"\(odd\)"), writing("x"):
        raise OSError("odd")


def test_other_exceptions_pass_through_unchanged() -> None:
    with pytest.raises(KeyError), writing("x"):
        raise KeyError("bug")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one", "one"),
        ("one\ntwo", "one"),
        ("\n  one\ntwo", "one"),
        ("", "OddError"),
        (" \n", "OddError"),
        ("x" * 300, "x" * 200),
    ],
)
def test_first_line_is_that_of_the_message_or_else_the_class_name(text: str, line: str) -> None:
    class OddError(Exception):
        """Has its text as its message."""

    assert first_line(OddError(text)) == line


@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_libraries_that_do_not_fit_into_memory_become_memory_errors(kind: type[Exception]) -> None:
    with pytest.raises(MemoryError, match="libtorch_cpu"), pytorch_memory():
        raise kind("libtorch_cpu.so: failed to map segment from shared object")
    with pytest.raises(kind, match="libtorch_cpu"), pytorch_memory():
        raise kind("libtorch_cpu.so: cannot open shared object file")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", MemoryError),
        ("CUDA error: out of memory", MemoryError),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", MemoryError),
        ("could not create a primitive", MemoryError),
        ("could not create a primitive descriptor for the convolution forward propagation primitive", RuntimeError),
        ("a bug", RuntimeError),
    ],
)
def test_messages_of_pytorch_without_memory_become_memory_errors(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=re.escape(text)), pytorch_memory():
        raise RuntimeError(text)
