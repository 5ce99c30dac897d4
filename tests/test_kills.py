"""Whenever a command is killed or the disk is full: the same command again ends with the bits of an undisturbed run.

    KILLS=200 python -m pytest tests/test_kills.py    # as `make soak` does; the seed of the sample is KILLS_SEED

Each command is killed at a sample of the steps at which it changes a folder (`tests/kills.py`), and at random times;
nothing else is left. From other steps on no byte can be written, or the folder is gone: that ends in one line.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from self2self import export_live
from self2self.runtime.engines.registry import is_installed
from self2self.runtime.ensemble import kept_passes
from tests.commands import write_noisy
from tests.kills import Outcome, contents, fill_disk, import_everything, remove_current_folder, run, seconds_of
from tests.live.graphs import write as write_live

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

Record = Callable[[str, object], None]
"""The fixture `record_property`: figures go to the file of ``--junitxml``."""
SEED = int(os.environ.get("KILLS_SEED", "0"))
KILLS = int(os.environ.get("KILLS", "8"))
"""Kills at steps, over all commands; a quarter as many at random times, and of full disks and vanished folders."""
FIT = ("--steps", "1")
PASSES = ("--passes", "2", "--engine", "torch", "--batch", "1")
BOTH = ("--uncertainty", "std.tif")

COMMANDS: dict[str, list[str]] = {
    "fit": ["fit", "noisy.png", *FIT, "-o", "runs/one"],
    "export": ["export", "runs/fitted"],
    "infer": ["infer", "runs/exported", "noisy.png", *BOTH, *PASSES],
    "denoise in a single pass": ["denoise", "noisy.png", *FIT],
    "denoise": ["denoise", "noisy.png", *BOTH, "--report", "page.html", *FIT, *PASSES],
    "denoise several": ["denoise", "noisy.png", "other.png", "-o", "out", "--manifest", "files.jsonl", *FIT, *PASSES],
    "stack": ["denoise", "stack.tif", *BOTH, *FIT, *PASSES],
    "stack with a fit for each page": ["denoise", "stack.tif", "--fit-pages", "each", *FIT, *PASSES],
    "export of a plain model": ["export", "runs/fitted", "--plain", "--format", "bioimageio", "-o", "plain.zip"],
    "export of any network": ["export", "--model", "networks_to_kill:make", "-o", "any.onnx"],
    "predict": ["predict", "live.onnx", "inputs.npy", "--passes", "3", "-o", "out.npz"],
    "bench": [
        *("bench", "runs/exported/model.onnx", "--size", "64", "--engine", "ort", "--batch", "1", "--passes", "1"),
        *("--rounds", "1", "--no-memory", "-o", "speed.json", "--html", "speed.html"),
    ],
    "runs clean": ["runs", "clean", "--all", "--yes"],
}
if is_installed("tensorrt_rtx"):
    COMMANDS["engine build"] = ["export", "runs/exported", "--engine", "trt-rtx"]
SAYS_NOTHING = ("export", "export of a plain model", "denoise several")
"""Commands that do not say of finished work that it is done already."""
NETWORK = """
from torch import nn, ones

def make():
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.25), nn.Linear(8, 3)), ones(1, 4)
"""

ALL_OR_SOME = [*COMMANDS] if KILLS >= 100 else ["export", "denoise", "stack"]
"""Commands whose disk is full or whose folder vanishes."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with images and runs for all commands; everything is imported before processes are forked.

    The forked processes keep every pass, which otherwise happens only after seconds.
    """
    import_everything()
    # PyTorch imports what it exports with only then, which takes seconds.
    export_live(torch.nn.Dropout(), torch.ones(1, 4), tmp_path_factory.mktemp("export") / "any.onnx")
    folder = tmp_path_factory.mktemp("kills") / "start"
    (folder / "out").mkdir(parents=True)
    (folder / "temporary").mkdir()
    write_noisy(folder / "noisy.png", (40, 44))
    write_noisy(folder / "other.png", (40, 44), seed=1)
    pages = np.random.default_rng(2).integers(60, 190, (3, 40, 44), np.uint8)
    tifffile.imwrite(folder / "stack.tif", pages, photometric="minisblack")
    (folder / "networks_to_kill.py").write_text(NETWORK)
    write_live(folder / "live.onnx")
    np.save(folder / "inputs.npy", np.ones((2, 4), np.float32))
    for command in (
        ["fit", "noisy.png", *FIT, "-o", "runs/fitted"],
        ["fit", "noisy.png", *FIT, "-o", "runs/exported"],
        ["export", "runs/exported"],
    ):
        assert_done(run(command, folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_passes, "INTERVAL_SECONDS", 0.0)
        patch.setattr(kept_passes, "LARGEST_WRITE_SHARE", math.inf)
        yield folder


def assert_done(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.printed


def ends_in_one_line(outcome: Outcome) -> bool:
    """Whether a command that failed has printed one error and no traceback, and one that succeeded no error."""
    errors = [line for line in outcome.printed.splitlines() if line.startswith("error: ")]
    return "Traceback" not in outcome.printed and len(errors) == (outcome.code != 0)


def sample_of(steps: int, seed: str, total: int) -> list[int]:
    """Some of the steps of a command, in their order: its share of a `total` over all commands, or one."""
    return sorted(random.Random(seed).sample(range(steps), min(steps, max(1, -(-total // len(COMMANDS))))))


@pytest.fixture
def work(start: Path, tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "start"


def fresh(start: Path, work: Path) -> Path:
    """A copy of `start` under a name of the same length, as paths in files have to be the same."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)
    return work


@dataclass
class Tally:
    """What became of the kills of one command."""

    expected: dict[str, str]
    tried: int = 0
    lost: int = 0
    left: int = 0
    failures: list[str] = field(default_factory=list)

    def count(self, moment: float, again: Outcome, work: Path) -> None:
        """Count a kill at `moment`, after which the command ran again in `work`."""
        found = contents(work)
        lost = sorted(path for path, value in self.expected.items() if found.get(path) != value)
        left = sorted(found.keys() - self.expected.keys())
        self.tried += 1
        self.lost += len(lost)
        self.left += len(left)
        if again.code != 0 or lost or left:
            self.failures.append(f"killed at {moment}: exit {again.code}, {lost=}, {left=}, {again.printed}")

    def report(self, record: Record, command: str, **more: object) -> None:
        """Record the figures, which `benchmarks.reliability` reads, and fail if a kill was not survived."""
        survived = self.tried - len(self.failures)
        figures = {"command": command, "tried": self.tried, "survived": survived, "lost": self.lost, "left": self.left}
        for name, value in (figures | more).items():
            record(name, value)
        assert not self.failures, "\n".join(self.failures)


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_a_step(name: str, start: Path, work: Path, record_property: Record) -> None:
    command = COMMANDS[name]
    undisturbed = run(command, fresh(start, work))
    assert_done(undisturbed)
    tally = Tally(contents(work))
    for moment in sample_of(undisturbed.steps, f"{SEED} {name}", KILLS):
        killed = run(command, fresh(start, work), at_step=moment)
        assert killed.code == -9, (moment, killed.printed)
        tally.count(moment, run(command, work), work)
    tally.report(record_property, name, what="kills", moments=undisturbed.steps, covered=tally.tried)
    said = ("done already", "there already", "nothing to remove")
    assert any(text in run(command, work).printed for text in said) or name in SAYS_NOTHING
    assert contents(work) == tally.expected


@pytest.mark.parametrize("name", ["denoise", "stack with a fit for each page"])
def test_killed_at_a_random_time(name: str, start: Path, work: Path, record_property: Record) -> None:
    command = COMMANDS[name]
    seconds = seconds_of(command, fresh(start, work))
    tally = Tally(contents(work))
    source = random.Random(f"{SEED} {name}")
    for _ in range(max(1, KILLS // 8)):
        moment = source.uniform(0, seconds)
        run(command, fresh(start, work), kill_after_seconds=moment)
        tally.count(moment, run(command, work), work)
    tally.report(record_property, name, what="kills")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
@pytest.mark.parametrize("name", ALL_OR_SOME)
def test_the_disk_is_full_from_a_step_on(name: str, start: Path, work: Path, record_property: Record) -> None:
    """One line and exit code 5, or success if nothing was left to write; with space again, the same bits."""
    command = COMMANDS[name]
    undisturbed = run(command, fresh(start, work))
    tally = Tally(contents(work))
    for moment in sample_of(undisturbed.steps, f"{SEED} disk {name}", KILLS // 4):
        stopped = run(command, fresh(start, work), at_step=moment, disturb=fill_disk)
        if stopped.code not in (0, 5) or not ends_in_one_line(stopped) or "partial" in str(contents(work).keys()):
            tally.failures.append(f"full at {moment}: {stopped.printed}")
        tally.count(moment, run(command, work), work)
    tally.report(record_property, name, what="full disks")


@pytest.mark.parametrize("name", ALL_OR_SOME)
def test_the_folder_vanishes_at_a_step(name: str, start: Path, work: Path, record_property: Record) -> None:
    command = COMMANDS[name]
    steps = run(command, fresh(start, work)).steps
    tally = Tally({})
    for moment in sample_of(steps, f"{SEED} gone {name}", KILLS // 4):
        stopped = run(command, fresh(start, work), at_step=moment, disturb=remove_current_folder)
        tally.tried += 1
        if stopped.code not in (0, 2, 3, 5, 6) or not ends_in_one_line(stopped):
            tally.failures.append(f"gone at {moment}: {stopped.printed}")
    tally.report(record_property, name, what="vanished folders")
