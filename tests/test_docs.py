"""Every command and link of the documentation is right: it exists and takes what stands there; no command runs here."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import self2self
from self2self.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("dev/log/*.md")])
PROGRAMS = ("self2self ", "python -m ", "python cli.py ", "python scripts/", "make ", "pip install ")
SOURCES = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("scripts/*.py")])
SELF2SELF: Any = typer.main.get_command(app)


def indented(text: str) -> Iterator[str]:
    """Commands in blocks that are indented by four spaces, without what is said about them behind them."""
    for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE):
        if line.startswith(PROGRAMS):
            yield re.split(r"\s{2,}[#(]", line)[0]


def fenced(text: str) -> Iterator[str]:
    """Commands behind a dollar sign in blocks of a console."""
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from re.findall(r"^\$ (.*)$", block, re.MULTILINE)


def inline(text: str) -> Iterator[str]:
    """What stands between backticks in running text, also across the end of a line."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`]+)`", prose):
        yield " ".join(code.split())


def commands(path: Path) -> list[str]:
    """All whole commands of a page, or of the docstring of a program."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return list(indented(ast.get_docstring(ast.parse(text), clean=False) or ""))
    found = [*fenced(text), *indented(text)]
    return found + [code for code in inline(text) if code.startswith(PROGRAMS)]


class ParserMadeError(Exception):
    """A program has made its parser, and would begin to work after it."""


def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser of a program, which goes no further."""

    def stop(self: argparse.ArgumentParser, *_: object) -> None:
        raise ParserMadeError(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ParserMadeError) as made:
        # Where Python looks first for what a script imports.
        patch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
        program = importlib.import_module(module)
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        program.main()
    parser: argparse.ArgumentParser = made.value.args[0]
    return parser


def check_self2self(arguments: list[str]) -> None:
    """Let a command of self2self read `arguments`."""
    if not arguments or arguments == ["--help"]:
        return
    name, *rest = arguments
    assert name in SELF2SELF.commands, f"there is no command {name}"
    # Without arguments it is the command that is spoken of, not a call of it.
    if rest and rest != ["--help"]:
        SELF2SELF.commands[name].make_context(name, list(rest))


def check_make(targets: list[str]) -> None:
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    unknown = {target for target in targets if "=" not in target} - set(known)
    assert not unknown, f"the Makefile has no target {unknown}"


def check_install(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"^(?:\.|self2self)\[([^\]]+)\]$", "\n".join(words), re.MULTILINE):
        assert set(named.split(",")) <= set(extras), f"there is no extra {named}"


def check(command: str) -> None:
    """Refuse a command that would be refused."""
    program, *words = shlex.split(command)
    if program == "make":
        check_make(words)
    elif program == "pip":
        check_install(words[1:])
    elif program == "self2self":
        check_self2self(words)
    elif words[0] == "cli.py":
        check_self2self(words[1:])
    elif words[0].startswith("scripts/"):
        parser_of(words[0].removesuffix(".py").replace("/", ".")).parse_args(words[1:])
    elif words[1].startswith("benchmarks."):
        parser = parser_of(words[1])
        # Without arguments it is the program that is spoken of.
        if words[2:] not in ([], ["--help"]):
            parser.parse_args(words[2:])


CASES = [(path.relative_to(ROOT), command) for path in [*PAGES, *SOURCES] for command in dict.fromkeys(commands(path))]


@pytest.mark.parametrize(("path", "command"), CASES, ids=[f"{path}: {command}" for path, command in CASES])
def test_the_command_can_be_typed(path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        check(command)
    except SystemExit:
        pytest.fail(f"{path}: {command}: {capsys.readouterr().err}")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("self2self unfit a.png", "there is no command unfit"),
        ("self2self denoise --json", "images"),
        ("self2self denoise a.png --no-such-option", "--no-such-option"),
        ("self2self infer --batch", "--batch"),
        ("python cli.py fit a.png --steps many", "integer"),
        ("python -m benchmarks.no_such_thing", "no_such_thing"),
        ("python -m benchmarks.tables a.json --no-such-option", "--no-such-option"),
        ("python -m benchmarks.fit_quality --baselines", "required"),
        ("python scripts/prefit.py", "required"),
        ("make tea", "tea"),
        ("pip install '.[no-such-extra]'", "no-such-extra"),
    ],
)
def test_a_wrong_command_is_found(command: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Typer's own errors are of classes that have no public name.
    with pytest.raises((Exception, SystemExit)) as caught:
        check(command)
    assert reason in f"{caught.value} {capsys.readouterr().err}"


def options_of(command: Any) -> set[str]:
    """All spellings of the options of a command of self2self."""
    return {text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts)}


@cache
def all_options() -> set[str]:
    """All options of self2self, the benchmarks and the scripts."""
    commands = list(SELF2SELF.commands.values())
    commands += [command for group in commands for command in getattr(group, "commands", {}).values()]
    known = set().union(*map(options_of, (SELF2SELF, *commands)))
    for path in SOURCES:
        if "def main(" in path.read_text(encoding="utf-8"):
            parser = parser_of(f"{path.parent.name}.{path.stem}")
            known |= {text for action in parser._actions for text in action.option_strings}
    return known


def unknown_options(code: str) -> set[str]:
    """Options in `code` that are not those of the command that it begins with, or of any if it begins with none."""
    first, *_ = code.split()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code))
    known = options_of(SELF2SELF.commands[first]) if first in SELF2SELF.commands else all_options()
    return named - known - {"--help"}


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_options_in_running_text_exist(path: Path) -> None:
    beginnings = ("--", *(f"{name} -" for name in SELF2SELF.commands))
    codes = [code for code in inline(path.read_text(encoding="utf-8")) if code.startswith(beginnings)]
    found = {code: unknown for code in codes if (unknown := unknown_options(code))}
    assert not found


def test_an_unknown_option_in_running_text_is_found() -> None:
    assert unknown_options("--no-such-option FILE") == {"--no-such-option"}
    assert unknown_options("infer --init RUN") == {"--init"}
    assert unknown_options("denoise --init RUN --iqa/--no-iqa") == set()


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
PLACEHOLDER = re.compile(r"\b[A-Z][A-Za-z]*x?[A-Z]\b|\b[A-Z]\b|\.\.\.")
"""What stands for the user's own file, option or number in a message: FILE, N, HxW."""


def messages(text: str) -> Iterator[str]:
    """What the first column of each table about messages quotes."""
    for row in re.findall(r"^\| (.*?) \|", text.partition("\n## By message")[2], re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", row)


@cache
def texts_of_the_program() -> list[str]:
    """All strings of the package, with the values that are put into them left out."""
    found = []
    for path in sorted(ROOT.glob("self2self/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(map(text_of, node.values)))
    return found


def text_of(part: ast.expr) -> str:
    """A part of an f-string as the command line prints it, with an option by its name, and no other value."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    value = part.value if isinstance(part, ast.FormattedValue) else None
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "typed" and isinstance(value.args[0], ast.Constant):
        return str(value.args[0].value) + " \0" * (len(value.args) - 1)
    return "\0"


def is_said(message: str) -> bool:
    """Whether one string of the package has all that `message` quotes, in its order."""
    parts = [re.escape(part.strip()) for part in PLACEHOLDER.split(message) if part.strip(" :")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in texts_of_the_program())


def test_quoted_messages_are_those_of_the_program() -> None:
    quoted = list(messages(TROUBLESHOOTING.read_text(encoding="utf-8")))
    assert len(quoted) >= 80
    assert not [message for message in quoted if not is_said(message)]
    assert not is_said("this is said nowhere")


def test_the_site_has_every_page_and_every_public_name() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    hidden = re.search(r"^not_in_nav: \|\n((?:  .*\n)+)", site, re.MULTILINE)
    left_out = set(hidden[1].split()) if hidden else set()
    listed = set(re.findall(r": ([a-z-]+\.md)$", site, re.MULTILINE))
    assert {path.name for path in ROOT.glob("docs/*.md") if f"/{path.name}" not in left_out} <= listed
    reference = re.findall(r"^::: self2self\.(\w+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(reference) == sorted(set(self2self.__all__) - {"__version__"})
