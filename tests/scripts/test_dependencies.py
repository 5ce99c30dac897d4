"""Dependencies: the page of licences has every package, and the lowest versions are those of pyproject.toml."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "licences.md"


@pytest.fixture
def dependencies(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("dependencies")


def test_the_page_lists_what_is_installed_by_default(dependencies: ModuleType) -> None:
    """After a change: the table of `python scripts/dependencies.py licences` goes into the page."""
    listed = set(re.findall(r"^\| ([\w.-]+) \| \d", PAGE.read_text(), re.MULTILINE))
    needed = set(dependencies.installed())
    if older := dependencies.older_than_tested():
        pytest.skip(f"the page lists what the tested versions need; older here: {', '.join(older)}")
    assert {"numpy", "torch", "onnxruntime"} <= needed
    # PyTorch's build for GPUs brings libraries that its build for CPUs, as of the tests, does not.
    assert needed <= listed, needed - listed


def test_no_licence_asks_for_more_than_a_notice(dependencies: ModuleType) -> None:
    texts = {name: dependencies.licence(name) for name in dependencies.installed()}
    strict = {name: text for name, text in texts.items() if re.search(r"GPL|NonCommercial|not declared|EUPL", text)}
    assert not strict


def test_lowest_versions_are_those_of_pyproject(dependencies: ModuleType) -> None:
    lines = dependencies.lowest()
    assert any(re.fullmatch(r"torch>=[\d.]+", line) for line in lines)
    assert any(re.fullmatch(r"pytest>=[\d.]+", line) for line in lines)
    assert not any(line.startswith(("ruff", "mypy", "self2self", "tensorrt")) for line in lines)
