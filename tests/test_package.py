"""The package as a whole: cheap to import, and what it promises is there."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import self2self
from tests.commands import run_program

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "PIL", "tifffile", "tensorrt", "rich.progress")


def python(code: str) -> str:
    return run_program(code).stdout


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
sys.argv = ["self2self", "--help"]
from self2self.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert python(code).splitlines()[-1] == "[]"


def test_every_public_name_is_there_and_documented() -> None:
    for name in self2self.__all__:
        value = getattr(self2self, name)
        assert name == "__version__" or value.__doc__, name


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse((ROOT / "self2self" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == self2self._MODULE_OF_NAME
    assert set(self2self.__all__) <= set(dir(self2self))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert python(f"import self2self, sys; print([n for n in {HEAVY!r} if n in sys.modules])").strip() == "[]"


def test_version_is_the_same_everywhere() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert declared[1] == self2self.__version__


def test_the_conda_recipe_requires_what_the_package_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = (ROOT / "packaging" / "conda" / "recipe.yaml").read_text()
    run = re.search(r"^  run:\n((?:    - .+\n)+)", recipe, re.MULTILINE)
    assert run is not None
    required = {line.replace(" ", "") for line in re.findall(r"- (.+)", run[1])}
    names = {"torch": "pytorch"}
    wanted = {re.sub(r"^[\w-]+", lambda name: names.get(name[0], name[0]), line) for line in project["dependencies"]}
    assert required == {*wanted, f"python{project['requires-python']}"}
    assert f"version: {project['version']}\n" in recipe


def test_only_one_onnx_runtime_is_ever_required() -> None:
    """The two packages overwrite each other's files, so no extra may bring the other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = [re.split(r"[^\w-]", line)[0] for line in required]
    assert [name for name in names if name.startswith("onnxruntime")] == ["onnxruntime"]


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_project_is_free_of_machine_paths() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = tracked.stdout.split() if tracked.returncode == 0 else []
    texts = [ROOT / n for n in names if n.endswith((".py", ".md", ".toml", ".json", ".txt")) and (ROOT / n).is_file()]
    pattern = re.compile(r"/(?:root|home/[a-z]+|Users/[a-z]+)/")
    assert not [str(p) for p in texts if p.name != Path(__file__).name and pattern.search(p.read_text("utf-8"))]
