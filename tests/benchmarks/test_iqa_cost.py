"""The benchmark of the image quality term, with tiny networks."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import iqa_cost
from benchmarks.iqa_cost import CPU, measure
from self2self.train.iqa import IqaTerm
from self2self.train.iqa_weights import find_weights
from tests.train.plain_paq2piq import write_weights
from tests.train.test_fit import TINY, image_of
from tests.train.test_iqa import skip_without_pyiqa

RECIPE = replace(TINY, steps=3)


def random_term(folder: Path) -> IqaTerm:
    skip_without_pyiqa()
    return IqaTerm(find_weights(write_weights(folder / "random.pth"), print), CPU)


def test_a_step_with_the_term_holds_more(tmp_path: Path) -> None:
    row = measure(image_of(64, 64), RECIPE, random_term(tmp_path), rounds=1)
    assert row["held_bytes_with_term"] > row["held_bytes"] > 64 * 64 * 4
    assert row["step_cpu_seconds_with_term"] > 0
    assert row["step_cpu_seconds"] > 0
    assert row["term_seconds"] > 0


def test_times_are_medians_of_all_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks are fake, because other programs can delay a real one."""
    term = random_term(tmp_path)
    assert len(iqa_cost.seconds_of_steps(image_of(64, 64), RECIPE, term)) == 2
    rounds = {None: iter([[(1, 2), (1, 9)], [(4, 2)]]), term: iter([[(3, 5), (3, 5)], [(9, 1)]])}
    monkeypatch.setattr(iqa_cost, "seconds_of_steps", lambda pixels, recipe, quality: next(rounds[quality]))
    row = measure(image_of(64, 64), RECIPE, term, rounds=2)
    assert (row["step_seconds"], row["step_seconds_with_term"], row["seconds_ratio"]) == (1, 3, 3)
    assert (row["step_cpu_seconds"], row["step_cpu_seconds_with_term"], row["cpu_seconds_ratio"]) == (2, 5, 2.5)
