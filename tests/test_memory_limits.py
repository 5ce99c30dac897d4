"""Under a limit of the address space, the plan shrinks, or one line says what to change; nothing is half written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.commands import FAST, ROOT
from tests.kills import contents, import_everything, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or not hasattr(os, "fork"), reason="the limit is that of Linux"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

SIDE = 384
COMMANDS = [["infer", "run", "noisy.png", "--passes", "2", "--engine", "ort"], ["fit", "noisy.png", *FAST, "-o", "new"]]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and its exported run; everything is imported before processes are forked."""
    import_everything()
    folder = tmp_path_factory.mktemp("memory") / "work"
    (folder / "temporary").mkdir(parents=True)
    pixels = np.random.default_rng(0).normal(120, 30, (SIDE, SIDE, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "noisy.png")
    for command in (["fit", "noisy.png", *FAST, "-o", "run"], ["export", "run"]):
        done = run(command, folder)
        assert done.code == 0, done.printed
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=["infer", "fit"])
def test_less_and_less_memory(command: list[str], fitted: Path) -> None:
    before, codes = contents(fitted), []
    for megabytes in (1, 130, 2500):

        def limit(megabytes: int = megabytes) -> None:
            import resource

            allowed = psutil.Process().memory_info().vms + megabytes * 10**6
            resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))

        done = run([*command, "--force"], fitted, at_step=0, disturb=limit)
        codes.append(done.code)
        assert "Traceback" not in done.printed
        assert done.code in (0, 5), done.printed
        if done.code == 5:
            (line,) = [line for line in done.printed.splitlines() if "error" in line]
            assert "memory" in line
            assert any(remedy in line for remedy in ("--memory", "--recipe", "smaller image")), line
        assert not [path for path in contents(fitted) if ".partial" in path]
    # More memory never makes it worse. What libraries have freed already suffices for passes over the smallest tiles.
    assert codes == sorted(codes, reverse=True)
    assert codes[-1] == 0
    assert command[0] == "infer" or codes[0] == 5
    assert contents(fitted).items() >= before.items()


LIMITED = """
import resource, sys
allowed = int(sys.argv.pop(1)) * 10**6
resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
from self2self.__main__ import main
main()
"""


@pytest.mark.parametrize("megabytes", [200, 300, 600, 800])
def test_a_limit_below_what_libraries_need_is_named(megabytes: int, fitted: Path) -> None:
    before = contents(fitted)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(megabytes), "denoise", "noisy.png", *FAST, "-o", "limited.png"],
        cwd=fitted,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: out of memory")
    assert line.endswith(f" This process may take {megabytes} MB (ulimit -v); raise that.")
    assert contents(fitted) == before


GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of version 1 without processes."""
    folder = GROUPS / f"self2self-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of version 1 can be made in {GROUPS}: {error.strerror}")
    yield folder
    folder.rmdir()


def run_in(group: Path, megabytes: int, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a control group that has `megabytes` of memory."""
    (group / "memory.limit_in_bytes").write_text(str(megabytes * 10**6))
    return subprocess.run(
        ["sh", "-c", f'echo $$ > {group}/tasks && exec "$@"', "sh", sys.executable, "-m", "self2self", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("command", ["denoise", "infer"])
def test_a_control_group_with_too_little_memory_is_named_and_not_killed(
    command: str, group: Path, fitted: Path
) -> None:
    arguments = ["denoise", "noisy.png", *FAST] if command == "denoise" else COMMANDS[0]
    before = contents(fitted)
    for megabytes in (100, 200, 300):
        done = run_in(group, megabytes, [*arguments, "-o", "limited.png"], fitted)
        assert done.returncode == 5, (megabytes, done.stderr)
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: out of memory")
        assert line.endswith(" MB more (the limit of its control group); raise that.")
    assert contents(fitted) == before
    done = run_in(group, 1500, [*arguments, "-o", "limited.png"], fitted)
    assert done.returncode == 0, done.stderr
    (fitted / "limited.png").unlink()
