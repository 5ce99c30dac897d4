"""The rounds with fake engines: order of the cases, and engines that cannot run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from self2self.bench import measure, rounds
from self2self.bench.benchmark_model import BenchmarkModel
from self2self.bench.rounds import RoundPlan, run_size
from self2self.errors import FileFormatError
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.model import load_model
from tests.conftest import Fitted
from tests.runtime.ensemble.test_device_loop import OnDevice
from tests.runtime.fakes import FakeEngine


class Good(FakeEngine):
    """Works, and reports a copy time of one millisecond per run."""

    copy_seconds: float = 0.0

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        self.copy_seconds += 0.001
        return super().run(masks)


class Broken(FakeEngine):
    """Cannot load any model."""

    def prepare(self) -> None:
        raise FileFormatError("model.onnx: cannot be loaded.")


class Small(FakeEngine):
    """Has memory for two passes at a time."""

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        if len(next(iter(masks.values()))) > 2:
            raise MemoryError
        return super().run(masks)


class Device(OnDevice):
    """Accepts masks on its device only."""

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        raise AssertionError("masks came from the host")


ENGINES: dict[str, type[Engine]] = {"good": Good, "broken": Broken, "small": Small, "device": Device}


@pytest.fixture
def benchmark_model(tiny: Fitted, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> BenchmarkModel:
    monkeypatch.setattr(measure, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "engine_class", ENGINES.__getitem__)
    return BenchmarkModel("tiny", tiny.network, load_model(tiny_onnx))


def test_all_cases_take_turns_and_each_starts_one_round(benchmark_model: BenchmarkModel) -> None:
    started: list[str] = []
    result = run_size(benchmark_model, (64, 64), RoundPlan(["good", "small"], [1], 2, 3), started.append)
    assert [line.split()[1] for line in started] == [
        *("plain", "good", "small"),
        *("good", "small", "plain"),
        *("small", "plain", "good"),
    ]
    assert len(result.peaks) == 3
    assert Counter(len(case.timings) for case in result.cases) == {3: 3}
    assert RoundPlan(["good", "small"], [1], 2, 3).steps() == len(started)


def test_batches_are_whole_and_parts_add_up(benchmark_model: BenchmarkModel) -> None:
    result = run_size(benchmark_model, (64, 64), RoundPlan(["good"], [1, 2], 3, 1))
    assert [(case.batch, case.passes) for case in result.cases] == [(1, 3), (1, 3), (2, 4)]
    for case in result.cases[1:]:
        (timing,) = case.timings
        # One millisecond per run, whatever time the run really took.
        assert timing.copies == pytest.approx(0.001 * case.passes / case.batch)
        assert timing.masks + (timing.copies or 0) + timing.compute + timing.reduction == pytest.approx(timing.seconds)


def test_an_engine_that_cannot_say_what_it_copies(benchmark_model: BenchmarkModel) -> None:
    (timing,) = run_size(benchmark_model, (64, 64), RoundPlan(["small"], [1], 1, 1)).cases[1].timings
    assert timing.copies is None
    assert timing.masks + timing.compute + timing.reduction == pytest.approx(timing.seconds)


def test_engines_on_a_device_run_as_the_product_runs_them(benchmark_model: BenchmarkModel) -> None:
    plain, case = run_size(benchmark_model, (64, 64), RoundPlan(["device"], [2], 3, 1)).cases
    assert plain.engine == "plain"
    assert (case.engine, case.batch, case.passes) == ("device", 2, 4)
    (timing,) = case.timings
    assert timing.copies is None
    assert timing.masks + timing.compute + timing.reduction == pytest.approx(timing.seconds)


def test_an_engine_that_cannot_run_is_reported_and_stops_no_other(benchmark_model: BenchmarkModel) -> None:
    result = run_size(benchmark_model, (64, 64), RoundPlan(["broken", "small", "good"], [1, 4], 1, 1))
    assert [(case.engine, case.batch) for case in result.cases] == [
        ("plain", 1),
        ("small", 1),
        ("good", 1),
        ("good", 4),
    ]
    assert result.problems == {
        "broken": "model.onnx: cannot be loaded.",
        "small with batch 4": "does not fit into memory at 64x64",
    }


def test_a_strict_plan_raises_the_error_of_an_engine(benchmark_model: BenchmarkModel) -> None:
    with pytest.raises(FileFormatError, match="cannot be loaded"):
        run_size(benchmark_model, (64, 64), RoundPlan(["broken"], [1], 1, 1, strict=True))
