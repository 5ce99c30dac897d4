"""What all commands share: defaults, help, messages, JSON, and that nothing is overwritten."""

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from self2self.cli import main
from tests.commands import FAST, ROOT, parse_json, picture, run_cli, write_noisy


def test_fit_export_infer_need_no_arguments_after_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "image.png")
    assert "fitted in 2 steps" in run_cli("fit", "image.png", *FAST).stdout
    assert "verified against PyTorch" in run_cli("export").stdout
    assert "image.denoised.png" in run_cli("infer", "--passes", "3").stdout
    assert picture(tmp_path / "image.denoised.png").shape == (64, 70, 3)


def test_nothing_is_overwritten_without_force(work: Path) -> None:
    model = next(work.glob("runs/*/model.onnx"))
    (work / "noisy.denoised.png").write_bytes(b"mine")
    for command in (["infer", "--passes", "1"], ["denoise", "noisy.png", *FAST, "--passes", "1"]):
        assert "exists already" in run_cli(*command, expect=2).stderr
    assert (work / "noisy.denoised.png").read_bytes() == b"mine"
    before = model.read_bytes()
    run_cli("export")
    assert model.read_bytes() == before
    model.write_bytes(b"mine")
    assert "--force" in run_cli("export", expect=2).stderr
    assert model.read_bytes() == b"mine"
    model.write_bytes(before)
    other = run_cli("fit", "noisy.png", "--steps", "3", "-o", str(model.parent), expect=2)
    assert "holds a finished fit with other settings" in other.stderr
    run_cli("infer", "--passes", "1", "--force")
    assert picture(work / "noisy.denoised.png").shape == (64, 70, 3)


def test_quiet_prints_nothing_and_json_errors_are_json(work: Path) -> None:
    result = run_cli("infer", "--passes", "1", "--quiet")
    assert (result.stdout, result.stderr) == ("", "")
    result = run_cli("infer", "--passes", "0", "--json", expect=2)
    assert parse_json(result)["error"]["exit_code"] == 2
    assert "--passes is 0" in parse_json(result)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["infer", "--bogus", "--json"], "error: No such option: --bogus (similar: --log, --verbose). Type: "),
        (["infer", "--zzzzzzzz", "--json"], "error: No such option: --zzzzzzzz. Type: "),
        (["bogus", "--json"], "error: No such command: bogus. Type: "),
        (["denoise", "-a.png", "--json"], "type ./-a.png"),
        (["denoise", "a.png", "--sigma", "abc", "--json"], "error: --sigma is 'abc'; expected a number. Type: "),
        (["fit", "a.png", "--seed=1.5", "--json"], "error: --seed is '1.5'; expected a whole number. Type: "),
    ],
)
def test_wrong_usage_is_json_too_and_a_name_like_an_option_is_explained(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_noisy(tmp_path / "-a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["self2self", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert json.loads(printed.out)["error"]["exit_code"] == 2


def test_version_and_help() -> None:
    from self2self import __version__

    assert run_cli("--version").stdout.strip() == __version__
    for command in ([], ["fit"], ["export"], ["infer"], ["denoise"], ["engines"]):
        assert "Usage:" in run_cli(*command, "--help").stdout
    assert "\n  self2self denoise *.jpg -o results\n" in run_cli("denoise", "--help").stdout


def test_the_options_that_people_use_first_come_first_and_are_ten() -> None:
    shown = run_cli("denoise", "--help").stdout
    headings = re.findall(r"^(\S.*):$", shown, re.MULTILINE)
    assert headings[:2] == ["Arguments", "Options"]
    first = shown.partition("\nOptions:\n")[2].partition("\n\n")[0]
    names = re.findall(r"^  (?:-\w, )?(--[\w-]+)", first, re.MULTILINE)
    assert len(names) <= 10
    assert {"--output", "--strength", "--force", "--help"} <= set(names)
    assert "--mask-source" in shown.partition("\nThe passes:\n")[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell: str) -> None:
    told = {
        "bash": {"COMP_WORDS": "self2self den", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "self2self den"},
        "fish": {"_TYPER_COMPLETE_ARGS": "self2self den", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    code = "import sys; sys.argv[0] = 'self2self'; from self2self.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **told, "_SELF2SELF_COMPLETE": f"complete_{shell}"},
    )
    assert "denoise" in done.stdout, done.stderr
    assert "engines" not in done.stdout


def test_the_examples_of_the_package_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    import torch
    from torch import nn

    import self2self
    from self2self.train.recipes import RECIPES

    monkeypatch.chdir(tmp_path)
    write_noisy(tmp_path / "noisy.png")
    monkeypatch.setitem(RECIPES, "fast", RECIPES["fast"].with_options(steps=1))
    assert self2self.__doc__ is not None
    blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", self2self.__doc__)
    code = textwrap.dedent("".join(blocks)).replace("noisy.tif", "noisy.png")
    rng = np.random.default_rng(0)
    names: dict[str, Any] = {name: rng.random((64, 64), np.float32) for name in ("noisy", "other", "another")}
    names["network"] = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    names |= {"example_inputs": torch.zeros(1, 4), "inputs": np.zeros((2, 4), np.float32)}
    exec(code, {**names, "stack": rng.random((1, 2, 64, 64), np.float32)})
    assert picture(tmp_path / "noisy.denoised.png").shape == (64, 70, 3)
    assert (tmp_path / "net.onnx").is_file()
    assert (tmp_path / "m.onnx").is_file()


@pytest.mark.slow
def test_launcher_works_from_a_checkout_with_no_colour_and_no_bar(tmp_path: Path) -> None:
    write_noisy(tmp_path / "image.png")
    for arguments in (["fit", "image.png", *FAST], ["export"], ["infer", "--passes", "2"]):
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert "\x1b" not in done.stdout
        assert len(done.stdout.splitlines()) == 1


PRESSED = """
import runpy, sys

class Pressed:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Pressed())
runpy.run_path(sys.argv.pop(2), run_name="__main__")
"""


@pytest.mark.parametrize("start", ["cli.py", "self2self/__main__.py"])
@pytest.mark.parametrize("imported", ["self2self.cli", "typer", "self2self.cli.infer"])
def test_ctrl_c_while_modules_are_imported_ends_in_one_line(start: str, imported: str) -> None:
    command = [sys.executable, "-c", PRESSED, imported, str(ROOT / start)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted; nothing was begun.\n")


def test_the_installed_command_starts_where_nothing_heavy_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"self2self": "self2self.__main__:main"}
