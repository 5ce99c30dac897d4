"""Whenever a command is killed: the same command again ends with the bits of an undisturbed run, and nothing else.

    KILLS=200 python -m pytest tests/test_kills.py    # as `make soak` does; the seed of the sample is KILLS_SEED

Each command is killed at a sample of the steps at which it changes a folder (`tests/kills.py`), and at random times.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from self2self.runtime.ensemble import kept_passes
from tests.commands import write_noisy
from tests.kills import Outcome, contents, run, seconds_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

SEED = int(os.environ.get("KILLS_SEED", "0"))
KILLS = int(os.environ.get("KILLS", "8"))
"""Kills at steps, over all commands; a quarter as many at random times."""
FIT = ("--steps", "1")
PASSES = ("--passes", "2", "--engine", "torch", "--batch", "1")
BOTH = ("--uncertainty", "std.tif")

COMMANDS: dict[str, list[str]] = {
    "fit": ["fit", "noisy.png", *FIT, "-o", "runs/one"],
    "export": ["export", "runs/fitted"],
    "infer": ["infer", "runs/exported", "noisy.png", *BOTH, *PASSES],
    "denoise": ["denoise", "noisy.png", *BOTH, "--report", "page.html", *FIT, *PASSES],
    "denoise several": ["denoise", "noisy.png", "other.png", "-o", "out", *FIT, *PASSES],
    "stack": ["denoise", "stack.tif", *BOTH, *FIT, *PASSES],
    "stack with a fit for each page": ["denoise", "stack.tif", "--fit-pages", "each", *FIT, *PASSES],
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with images and runs for all commands; everything is imported before processes are forked.

    The forked processes keep every pass, which otherwise happens only after seconds.
    """
    import matplotlib.figure
    import onnxruntime
    import torch

    import self2self.cli
    import self2self.jobs

    del matplotlib, onnxruntime, self2self
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("kills") / "start"
    (folder / "out").mkdir(parents=True)
    write_noisy(folder / "noisy.png", (40, 44))
    write_noisy(folder / "other.png", (40, 44), seed=1)
    pages = np.random.default_rng(2).integers(60, 190, (3, 40, 44), np.uint8)
    tifffile.imwrite(folder / "stack.tif", pages, photometric="minisblack")
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


@pytest.fixture
def work(start: Path, tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "start"


def fresh(start: Path, work: Path) -> Path:
    """A copy of `start` under a name of the same length, as paths in files have to be the same."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)
    return work


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_a_step(name: str, start: Path, work: Path) -> None:
    command = COMMANDS[name]
    undisturbed = run(command, fresh(start, work))
    assert_done(undisturbed)
    expected = contents(work)
    count = min(undisturbed.steps, -(-KILLS // len(COMMANDS)))
    for moment in sorted(random.Random(f"{SEED} {name}").sample(range(undisturbed.steps), count)):
        killed = run(command, fresh(start, work), kill_at=moment)
        assert killed.code == -9, (moment, killed.printed)
        again = run(command, work)
        assert again.code == 0, (name, moment, undisturbed.steps, again.printed)
        assert contents(work) == expected, (name, moment, undisturbed.steps, again.printed)
        assert "done already" in run(command, work).printed or name in ("export", "denoise several")
        assert contents(work) == expected, (name, moment)


@pytest.mark.parametrize("name", ["denoise", "stack with a fit for each page"])
def test_killed_at_a_random_time(name: str, start: Path, work: Path) -> None:
    command = COMMANDS[name]
    seconds = seconds_of(command, fresh(start, work))
    expected = contents(work)
    source = random.Random(f"{SEED} {name}")
    for _ in range(max(1, KILLS // 8)):
        moment = source.uniform(0, seconds)
        run(command, fresh(start, work), after_seconds=moment)
        assert_done(run(command, work))
        assert contents(work) == expected, (name, moment)
