"""The figures of a benchmark case, computed from made-up seconds."""

from __future__ import annotations

import pytest

from self2self.bench.cases import Timing, rotated, whole_batches
from tests.bench.results import MEMORY, engine_case, plain_case


def test_figures_of_a_case() -> None:
    plain = plain_case([4.0, 6.0, 8.0], passes=4)
    # Twice the passes in half the time, one in the same, and one in twice the time.
    case = engine_case("ort", [2.0, 6.0, 16.0], batch=8, passes=8)
    entry = case.entry(plain, gflop=10.0, peak_gflops=40.0)
    assert (entry["engine"], entry["provider"], entry["precision"], entry["batch"]) == ("ort", "ORT", "fp32", 8)
    assert (entry["height"], entry["width"], entry["passes_per_round"]) == (64, 96, 8)
    assert entry["seconds_per_pass"]["median"] == pytest.approx(0.75)
    assert entry["seconds_per_pass"]["p10"] == pytest.approx(0.25 + 0.2 * 0.5)
    assert entry["seconds_per_pass"]["p90"] == pytest.approx(0.75 + 0.8 * 1.25)
    assert entry["passes_per_second"]["median"] == pytest.approx(8 / 6)
    assert entry["passes_per_second"]["max"] == pytest.approx(4.0)
    assert entry["megapixel_passes_per_second"]["median"] == pytest.approx(8 / 6 * 64 * 96 / 1e6)
    # Of each round: 1.0 against 0.25 s a pass, 1.5 against 0.75, 2.0 against 2.0.
    assert [entry["ratio_to_plain"][key] for key in ("min", "median", "max")] == pytest.approx([1.0, 2.0, 4.0])
    assert entry["share_of_matrix_product"] == pytest.approx(8 / 6 * 10 / 40)
    assert entry["parts_seconds_per_pass"]["masks"]["median"] == pytest.approx(0.1 * 0.75)
    assert entry["parts_seconds_per_pass"]["copies"]["median"] == pytest.approx(0.2 * 0.75)
    assert sum(part["median"] for part in entry["parts_seconds_per_pass"].values()) == pytest.approx(0.75)
    assert entry["prepare_seconds"] == 0.5
    assert entry["memory"] == MEMORY


def test_the_plain_loop_has_ratio_1_and_no_parts() -> None:
    plain = plain_case([4.0, 6.0])
    entry = plain.entry(plain, 10.0, None)
    assert set(entry["ratio_to_plain"].values()) == {1.0}
    assert entry["parts_seconds_per_pass"] is None
    assert entry["prepare_seconds"] is None
    assert entry["share_of_matrix_product"] is None


def test_copies_that_cannot_be_measured_are_none() -> None:
    plain = plain_case([4.0])
    case = engine_case("trt", [2.0])
    case.timings = [Timing(2.0, 0.5, None, 1.4, 0.1)]
    parts = case.entry(plain, 10.0, None)["parts_seconds_per_pass"]
    assert parts["copies"] is None
    assert parts["compute"]["median"] == pytest.approx(1.4 / 4)


def test_every_method_starts_a_round_in_turn_and_runs_once_in_each() -> None:
    methods = ["plain", "ort", "torch"]
    rounds = [rotated(methods, index) for index in range(4)]
    assert rounds == [methods, ["ort", "torch", "plain"], ["torch", "plain", "ort"], methods]


@pytest.mark.parametrize(("passes", "batch", "expected"), [(4, 1, 4), (4, 4, 4), (4, 3, 6), (1, 8, 8)])
def test_runs_have_whole_batches(passes: int, batch: int, expected: int) -> None:
    assert whole_batches(passes, batch) == expected
