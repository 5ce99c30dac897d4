"""Who may import whom, and what must stay cheap to import (docs/design.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "self2self"

LEAVES = {
    *(
        "budget",
        "channels_last",
        "contract",
        "device_notes",
        "diagnosis",
        "errors",
        "extremes",
        "files",
        "graph",
        "image_io",
        "local_means",
        "lost_detail",
    ),
    *("masks", "metrics", "noise_curve", "nvidia", "nvidia_libraries", "orientation", "padding", "profiles"),
    *("system", "workers"),
}
FRONT = {"cli", "console", "options", "__main__"}
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorrt",
    "tensorrt_rtx",
    "MNN",
    "_tools",
    "pyiqa",
    "torchvision",
    "matplotlib",
    "jinja2",
}

ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, LEAVES),
    "train": {*LEAVES, "train"},
    "export": {*LEAVES, "export", "train.network"},
    "runtime": {*LEAVES, "runtime"},
    "html": {*LEAVES, "html"},
    "bench": {*LEAVES, "bench", "export", "html", "runtime", "train"},
    "report": {*LEAVES, "html", "report"},
}
"""Parts that each part may import anywhere; `FRONT`, jobs and __init__ may import everything."""

ONLY_IN_FUNCTIONS: dict[str, set[str]] = {
    "runtime.fused": {"train.network"},
    "runtime.integer_layers": {"train.network"},
    "runtime.integers": {"train.network"},
    "runtime.ranges": {"train.network"},
    "runtime.rounded": {"train.network"},
    "runtime.torch_int8": {"train.network"},
    "runtime.torch_engine": {"train.network", "train.recipes"},
    "runtime.trt": {"export.engine_cache", "export.tensorrt"},
}
"""The reference engine runs the network that was fitted, and so do those that compute it in other ways, which take it
by its type; TensorRT's engines are built at first use."""

DEFINES_NETWORKS = {
    "bench.plain",
    "channels_last",
    "runtime.integer_layers",
    "runtime.integers",
    "runtime.ranges",
    "runtime.rounded",
}
"""Modules outside `train` that cannot be read without torch; import them inside functions."""

AT_THE_TOP_OF_FRONT = {"errors", *FRONT}
"""What the command line may load before it knows the command."""


@dataclass(frozen=True)
class Import:
    """One imported module; `lazy` inside a function, `typing` under TYPE_CHECKING."""

    line: int
    target: str
    lazy: bool
    typing: bool


def imports_of(tree: ast.AST, package: str, lazy: bool = False, typing: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import; imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / inner.replace(".", "/")).is_dir() or (
                    ROOT / f"{inner.replace('.', '/')}.py"
                ).is_file()
                yield Import(node.lineno, inner if is_module else str(node.module), lazy, typing)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_of(node, package, True, typing)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imports_of(ast.Module(node.body, []), package, lazy, True)
            yield from imports_of(ast.Module(node.orelse, []), package, lazy, typing)
        else:
            yield from imports_of(node, package, lazy, typing)


def is_within(module: str, parts: set[str]) -> bool:
    return any(module == part or module.startswith(part + ".") for part in parts)


def problems(name: str, source: str) -> list[str]:
    """What is wrong with the imports of module `name` (without the package, such as ``train.fit``)."""
    part = name.partition(".")[0]
    found = []
    for entry in imports_of(ast.parse(source), name):
        where = f"self2self.{name}, line {entry.line}: imports {entry.target}"
        top = entry.target.partition(".")[0]
        at_import = not entry.lazy and not entry.typing
        if top in HEAVY and at_import and part != "train" and name not in DEFINES_NETWORKS:
            found.append(f"{where} at module level; put it into the function that needs it")
        if top != "self2self" or entry.target == "self2self":
            continue
        ours = entry.target.removeprefix("self2self.")
        if part in ALLOWED:
            allowed = ALLOWED[part] | (ONLY_IN_FUNCTIONS.get(name, set()) if not at_import else set())
            if not is_within(ours, allowed):
                found.append(f"{where}; allowed there: {', '.join(sorted(allowed))}")
        elif part in FRONT and at_import and not is_within(ours, AT_THE_TOP_OF_FRONT):
            found.append(f"{where} at module level; put it into the command")
        elif part == "" and at_import:
            found.append(f"{where} at module level; name it in the lazy list")
        elif part not in {*FRONT, "jobs", ""}:
            found.append(f"{where}; part {part} has no rule in {Path(__file__).name}")
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=[module_name(path) or "__init__" for path in SOURCES])
def test_imports_follow_the_design(path: Path) -> None:
    assert problems(module_name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("masks", "from self2self.train.network import Self2SelfNet"),
        ("masks", "def f():\n    from self2self import runtime"),
        ("train.fit", "from self2self.runtime.engine import Engine"),
        ("export.verify", "from self2self.train.fit import fit"),
        ("export.verify", "import onnx"),
        ("runtime.ort", "def f():\n    from self2self.train.network import Self2SelfNet"),
        ("runtime.torch_engine", "from self2self.train.network import Self2SelfNet"),
        ("runtime.ort", "try:\n    import onnxruntime\nexcept ImportError:\n    pass"),
        ("cli", "from self2self import jobs"),
        ("", "from self2self.train import fit"),
        ("brand_new", "from self2self import errors"),
    ],
)
def test_the_rules_catch_what_they_are_for(name: str, source: str) -> None:
    assert problems(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("masks", "from self2self.contract import MaskSpec"),
        ("export.verify", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx"),
        ("export.verify", "def f():\n    import onnx\n    from self2self.train.network import Self2SelfNet"),
        ("runtime.torch_engine", "def f():\n    from self2self.train.network import Self2SelfNet"),
        ("train.fit", "import torch"),
        ("cli", "def f():\n    from self2self.jobs import fit_job"),
    ],
)
def test_the_rules_allow_what_is_meant(name: str, source: str) -> None:
    assert problems(name, source) == []


def test_the_design_names_the_parts_and_what_they_may_import() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| ([^|]*`[^|]*) \| [^|]+ \| ([^|]+) \|$", design.split("## The graph contract")[0], re.MULTILINE)
    )
    named = {frozenset(re.findall(r"`(\w+)`", part)): rule for part, rule in rows.items()}
    assert named.pop(frozenset(LEAVES)) == "each other"
    assert named.pop(frozenset({"jobs"})) == "everything"
    assert named.pop(frozenset(FRONT - {"__main__"})) == "everything, inside functions"
    assert {part for parts in named for part in parts} == ALLOWED.keys() - LEAVES
    for (part,), rule in named.items():
        assert rule.startswith("leaves")
        assert {part, *LEAVES, *re.findall(r"`([\w.]+)`", rule)} == ALLOWED[part]


def test_every_module_belongs_to_a_part() -> None:
    parts = {module_name(path).partition(".")[0] for path in SOURCES}
    assert parts == {"", "jobs", *ALLOWED, *FRONT}


LIGHT = [
    "self2self",
    "self2self.cli",
    "self2self.console",
    "self2self.contract",
    "self2self.diagnosis",
    "self2self.errors",
    "self2self.export",
    "self2self.export.to_onnx",
    "self2self.export.verify",
    "self2self.files",
    "self2self.image_io",
    "self2self.masks",
    "self2self.padding",
    "self2self.runtime.denoise",
    "self2self.runtime.engine",
    "self2self.runtime.model",
]


def test_importing_the_light_modules_loads_nothing_heavy() -> None:
    script = (
        "import sys, importlib\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = sorted({HEAVY!r} & sys.modules.keys())\n"
        "    assert not loaded, f'{name} loads {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
