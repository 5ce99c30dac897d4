"""Say what `pyproject.toml` claims about dependencies: the lowest versions, and the licences of what is installed.

    python scripts/dependencies.py lowest     # requirements of the package and of its tests, for `uv pip compile`
    python scripts/dependencies.py licences   # a table of all packages that `pip install self2self` brings

`make lowest` installs the lowest versions into an environment of its own, and runs the tests there.
"""

from __future__ import annotations

import argparse
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
CONSTRAINTS = PYPROJECT.with_name("constraints.txt")
"""The versions of the tests."""
TOOLS = ("mypy", "ruff", "tensorrt", "self2self")
"""What is left out of the lowest versions: tools that check the source, and libraries for a GPU."""
_LICENCE_CLASSIFIER = "License :: OSI Approved :: "


def lowest() -> list[str]:
    """The requirements of the package, of its formats and of its tests, without tools, sorted."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    found = [*project["dependencies"], *(line for name in ("formats", "heic", "raw", "test") for line in extras[name])]
    return sorted({line for line in found if not line.startswith(TOOLS)})


def installed(name: str = "self2self", seen: set[str] | None = None) -> list[str]:
    """Names of the packages that `name` needs without extras, on this system and Python, sorted."""
    seen = set() if seen is None else seen
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        needed = requirement.name.lower().replace("_", "-")
        # It may be for an extra, another system or another Python, and installed here for another package.
        is_for_this = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not is_for_this or needed in seen:
            continue
        seen.add(needed)
        installed(needed, seen)
    return sorted(seen)


def older_than_tested() -> list[str]:
    """Names of the direct dependencies that are installed in a version below that of `constraints.txt`, sorted."""
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    tested = {pin.name.lower(): pin.specifier for pin in map(Requirement, lines)}
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    names = sorted(Requirement(line).name.lower() for line in project["dependencies"])
    return [
        name
        for name in names
        for pin in tested.get(name, ())
        if Version(distribution(name).version) < Version(pin.version)
    ]


def licence(name: str) -> str:
    """The licence that an installed package declares, in one line."""
    metadata = distribution(name).metadata
    declared = metadata.get("License-Expression") or ""
    classified = [
        line.removeprefix(_LICENCE_CLASSIFIER)
        for line in metadata.get_all("Classifier") or []
        if line.startswith(_LICENCE_CLASSIFIER)
    ]
    text = declared or ", ".join(classified) or (metadata.get("License") or "").strip()
    return text.splitlines()[0] if text else "not declared"


def licences() -> list[str]:
    """A Markdown table of the packages that are installed by default, and their licences."""
    rows = [f"| {name} | {distribution(name).version} | {licence(name)} |" for name in installed()]
    return ["| package | version | licence |", "|---|---|---|", *rows]


def main() -> None:
    """Print what is asked for."""
    actions = {"lowest": lowest, "licences": licences}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=actions)
    print("\n".join(actions[parser.parse_args().what]()))


if __name__ == "__main__":
    main()
