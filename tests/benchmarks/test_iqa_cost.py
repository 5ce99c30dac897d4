"""The benchmark of the image quality term, on networks that are tiny."""

from dataclasses import replace
from pathlib import Path

from benchmarks.iqa_cost import CPU, measure
from self2self.train.iqa import IqaTerm
from self2self.train.iqa_weights import find_weights
from tests.train.plain_paq2piq import write_weights
from tests.train.test_fit import TINY, image_of
from tests.train.test_iqa import skip_without_pyiqa


def test_a_step_with_the_term_holds_more_and_takes_longer(tmp_path: Path) -> None:
    skip_without_pyiqa()
    term = IqaTerm(find_weights(write_weights(tmp_path / "random.pth"), print), CPU)
    row = measure(image_of(64, 64), replace(TINY, steps=3), term, rounds=1)
    assert row["held_bytes_with_term"] > row["held_bytes"] > 64 * 64 * 4
    assert row["step_cpu_seconds_with_term"] > row["step_cpu_seconds"] > 0
    assert row["term_seconds"] > 0
