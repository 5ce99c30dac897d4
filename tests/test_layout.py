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

FRONT = {"cli", "__main__"}
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorrt",
    "tensorrt_rtx",
    "MNN",
    "openvino",
    "_tools",
    "pyiqa",
    "torchvision",
    "matplotlib",
    "jinja2",
    "OpenEXR",
    "astropy",
    "mrcfile",
    "netpbmfile",
    "nibabel",
    "pillow_heif",
    "pydicom",
    "rawpy",
    "napari",
    "pint",
    "qtpy",
    "skimage",
    "zarr",
    "h5py",
    "dask",
    "nicegui",
    "fastapi",
    "uvicorn",
}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "machine": {"errors"},
    "model": {"errors", "machine"},
    "imaging": {"errors", "machine", "model"},
    "image_io": {"errors", "machine", "imaging"},
    "train": {"errors", "machine", "model", "imaging"},
    "export": {"errors", "machine", "model", "imaging"},
    "runtime": {"errors", "machine", "model", "imaging"},
    "live": {"errors", "machine", "model", "runtime"},
    "report": {"errors", "machine", "imaging"},
    "bench": {"errors", "machine", "model", "imaging", "train", "export", "runtime", "report"},
}
"""Rooms that each room may import anywhere beside itself; `FRONT`, `FREE` and __init__ may import everything."""

FREE = {"jobs", "arrays", "distributed", "gui", "napari_plugin"}
"""Rooms that do the work for people, and may import everything but the command line."""

DEFINES_NETWORKS = {
    "bench.plain_loop",
    "live.capture",
    "live.program",
    "live.rewrite",
    "live.verify",
    "live.watch",
    "model.channels_last",
    "model.network",
    "runtime.engines.torch_cpu.bf16_network",
    "runtime.engines.torch_cpu.calibration",
    "runtime.engines.torch_cpu.int8_layers",
    "runtime.engines.torch_cpu.int8_network",
}
"""Modules outside `train` that cannot be read without torch; import them inside functions."""

DEFINES_WIDGETS = {"napari_plugin.boxes", "napari_plugin.widget"}
"""Modules that cannot be read without Qt and napari."""

AT_THE_TOP_OF_FRONT = {"errors", "version", "machine.early_interrupt", *FRONT}
"""What the command line may load before it knows the command."""

AT_THE_TOP_OF_THE_PACKAGE = {"version", "machine.early_interrupt", "machine.system"}
"""What `import self2self` and `python -m self2self` may load: the setting of OpenMP has to be there before torch, and
Ctrl-C is answered from the first moment on."""


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


def is_within(module: str, rooms: set[str]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def problems(name: str, source: str) -> list[str]:
    """What is wrong with the imports of module `name` (without the package, such as ``train.fit``)."""
    room = name.partition(".")[0]
    found = []
    for entry in imports_of(ast.parse(source), name):
        where = f"self2self.{name}, line {entry.line}: imports {entry.target}"
        top = entry.target.partition(".")[0]
        at_import = not entry.lazy and not entry.typing
        if top in HEAVY and at_import and room != "train" and name not in DEFINES_NETWORKS | DEFINES_WIDGETS:
            found.append(f"{where} at module level; put it into the function that needs it")
        if top != "self2self":
            continue
        if entry.target == "self2self":
            found.append(f"{where}, which offers names of all rooms; import what you need from its own module")
            continue
        ours = entry.target.removeprefix("self2self.")
        if room in ALLOWED:
            loads_torch = room == "train" or name in DEFINES_NETWORKS
            if ours in DEFINES_NETWORKS and at_import and not loads_torch:
                found.append(f"{where} at module level, which loads torch; put it into the function that needs it")
            allowed = {room, *ALLOWED[room]}
            if not is_within(ours, allowed):
                found.append(f"{where}; allowed there: {', '.join(sorted(allowed))}")
        elif room in FRONT and at_import and not is_within(ours, AT_THE_TOP_OF_FRONT):
            found.append(f"{where} at module level; put it into the command")
        elif room in FREE and is_within(ours, FRONT):
            found.append(f"{where}; the command line imports {room}, not the other way")
        elif room == "" and at_import and not is_within(ours, AT_THE_TOP_OF_THE_PACKAGE):
            found.append(f"{where} at module level; name it in the lazy list")
        elif room not in {*FRONT, *FREE, ""}:
            found.append(f"{where}; room {room} has no rule in {Path(__file__).name}")
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path): path for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=[module_name(path) or "__init__" for path in SOURCES])
def test_imports_follow_the_design(path: Path) -> None:
    assert problems(module_name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("machine.files", "from self2self.model.network import Self2SelfNet"),
        ("model.masks", "def f():\n    from self2self import runtime"),
        ("imaging.noise", "from self2self.image_io import Image"),
        ("train.fit", "from self2self.runtime.engines.engine import Engine"),
        ("export.verify", "from self2self.train.fit import fit"),
        ("export.verify", "import onnx"),
        ("runtime.engines.mnn.engine", "def f():\n    from self2self.train.fit import fit"),
        ("runtime.engines.torch_cpu.reference", "from self2self.model.network import Self2SelfNet"),
        ("runtime.engines.onnxruntime.cpu", "try:\n    import onnxruntime\nexcept ImportError:\n    pass"),
        ("cli", "from self2self import jobs"),
        ("", "from self2self.train import fit"),
        ("arrays", "from self2self.cli.console import print_message"),
        ("napari_plugin.selection", "from napari.layers import Image"),
        ("arrays.calls", "def f():\n    from self2self import __version__"),
        ("brand_new", "from self2self import errors"),
    ],
)
def test_the_rules_catch_what_they_are_for(name: str, source: str) -> None:
    assert problems(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model.masks", "from self2self.model.contract import MaskSpec"),
        ("export.verify", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx"),
        ("export.verify", "def f():\n    import onnx\n    from self2self.model.network import Self2SelfNet"),
        ("runtime.engines.torch_cpu.reference", "def f():\n    from self2self.model.network import Self2SelfNet"),
        ("train.fit", "import torch"),
        ("cli", "def f():\n    from self2self.jobs import fit_job"),
        ("arrays", "from self2self.jobs import fit_job"),
        ("napari_plugin.widget", "from napari.layers import Image"),
    ],
)
def test_the_rules_allow_what_is_meant(name: str, source: str) -> None:
    assert problems(name, source) == []


def test_the_design_names_the_rooms_and_what_they_may_import() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = design.split("| room |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+?) *\|$", table, re.MULTILINE))
    assert {rows.pop(room) for room in FREE} == {"everything"}
    assert rows.pop("cli") == "everything, inside functions"
    assert {room: set(re.findall(r"`([\w.]+)`", rule)) for room, rule in rows.items()} == ALLOWED


def imported_modules(name: str, source: str) -> set[str]:
    """Modules of the package that `name` imports anywhere, also inside functions, but not for types alone."""
    entries = imports_of(ast.parse(source), name)
    return {entry.target.removeprefix("self2self.") for entry in entries if not entry.typing} & set(MODULES)


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, in order; empty if there are none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for target in sorted(imports[module]):
            if found := visit(target, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(imports) if (found := visit(module, []))), [])


def test_no_modules_import_each_other() -> None:
    imports = {name: imported_modules(name, path.read_text(encoding="utf-8")) for name, path in MODULES.items() if name}
    # A package that imports its own modules to offer their names is no circle.
    for name in imports:
        imports[name] = {target for target in imports[name] if target and not name.startswith(target + ".")}
    assert circle(imports) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_module_belongs_to_a_part() -> None:
    parts = {module_name(path).partition(".")[0] for path in SOURCES}
    assert parts == {"", *FREE, *ALLOWED, *FRONT}


LIGHT = [
    "self2self",
    "self2self.cli",
    "self2self.cli.console",
    "self2self.model.contract",
    "self2self.model.layers",
    "self2self.imaging.noise",
    "self2self.errors",
    "self2self.export",
    "self2self.export.to_onnx",
    "self2self.export.verify",
    "self2self.live.export",
    "self2self.live.model",
    "self2self.machine.files",
    "self2self.image_io",
    "self2self.model.masks",
    "self2self.imaging.padding",
    "self2self.runtime.ensemble.denoise",
    "self2self.runtime.engines.engine",
    "self2self.runtime.engines.registry",
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
