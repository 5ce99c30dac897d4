from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from self2self import errors
from self2self.errors import OutputError, ResourceError, Self2SelfError, first_line, pytorch_memory, writing
from tests.commands import run_program

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"(self2self \w+|pip install|dask scheduler|python -m) ")
OPTION = re.compile(r"(?<![\w-])--[a-z]")


def prose(tree: ast.AST) -> Iterator[str]:
    """The texts of a module that are neither docstrings nor single words, such as names of options."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        for child in ast.iter_child_nodes(node):
            is_typed = isinstance(node, ast.Call) and ast.unparse(node.func) == "typed"
            if isinstance(child, ast.Constant) and isinstance(child.value, str) and not is_typed:
                text = child.value
                # A message is one line.
                if " " in text.strip() and "\n" not in text:
                    yield text


def bare_options(source: str) -> list[str]:
    """Texts that name an option which is no part of a whole command, without `typed`."""
    found = []
    for text in prose(ast.parse(source)):
        command = COMMAND.search(text)
        if OPTION.search(text[: command.start()] if command else text):
            found.append(text)
    return found


MODULES = [path for path in sorted(ROOT.glob("self2self/**/*.py")) if path.parts[len(ROOT.parts) + 1] != "cli"]


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_messages_leave_it_to_the_front_end_how_options_are_called(path: Path) -> None:
    assert bare_options(path.read_text(encoding="utf-8")) == []


def test_a_bare_option_is_found() -> None:
    assert bare_options('raise UsageError(f"{path}: is there. Replace it with --force.")')
    assert not bare_options('raise UsageError(f"{path}: is old. Export it again: self2self export --force")')
    assert not bare_options("raise UsageError(f\"start anew with {typed('--engine ort')}.\")")


@pytest.mark.parametrize(
    ("option", "value", "on_the_command_line", "in_python"),
    [
        ("--force", "", "--force", "force=True"),
        ("--no-mosaic", "", "--no-mosaic", "mosaic=False"),
        ("--engine ort", "", "--engine ort", 'engine="ort"'),
        ("--passes", 500, "--passes 500", "passes=500"),
        ("--tolerance", 0.25, "--tolerance 0.25", "tolerance=0.25"),
        ("--fit-pages each", "", "--fit-pages each", 'fit_pages="each"'),
        ("--page N", "", "--page N", "page=N"),
        ("--memory 2GB", "", "--memory 2GB", "memory=2 * 10**9"),
        ("--seed", "", "--seed", "seed"),
        ("-o", Path("a b.png"), "-o a b.png", 'output="a b.png"'),
    ],
)
def test_an_option_is_called_as_its_user_knows_it(
    option: str, value: object, on_the_command_line: str, in_python: str
) -> None:
    assert errors.typed(option, value) == on_the_command_line
    with errors.speaking(errors.as_argument):
        assert errors.typed(option, value) == in_python
    assert errors.typed(option, value) == on_the_command_line


def test_a_program_in_python_is_told_of_arguments() -> None:
    code = """
import numpy as np
import self2self
noisy = np.zeros((16, 16), np.uint8)
for call in (
    lambda: self2self.EnsembleOptions(passes=0).check_values(),
    lambda: self2self.denoise(noisy, strength=9),
    lambda: self2self.denoise(noisy, axes="ZYX"),
    lambda: self2self.denoise_job("missing.png", self2self.FitOptions(page=0)),
):
    try:
        call()
    except self2self.Self2SelfError as error:
        print(error)
"""
    lines = run_program(code).stdout.splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "passes is 0",
        "strength is 9",
        'axes="ZYX" has 3 letters',
        "page is 0",
    ]
    assert "for example passes=500" in lines[0]


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
