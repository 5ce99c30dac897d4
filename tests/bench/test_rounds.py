"""The rounds, with engines that cost nothing: who runs when, and what happens to those that cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from self2self.bench import measure, rounds
from self2self.bench.benchmark_model import Subject
from self2self.bench.rounds import Plan, run_size
from self2self.errors import FileFormatError
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.model import load_model
from tests.conftest import Fitted
from tests.runtime.ensemble.test_device_loop import OnDevice
from tests.runtime.fakes import FakeEngine


class Good(FakeEngine):
    """Works, and copies for a millisecond a run."""

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
    """Takes masks where it runs, and no others."""

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        raise AssertionError("masks came from the host")


ENGINES: dict[str, type[Engine]] = {"good": Good, "broken": Broken, "small": Small, "device": Device}


@pytest.fixture
def subject(tiny: Fitted, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setattr(measure, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "engine_class", ENGINES.__getitem__)
    return Subject("tiny", tiny.network, load_model(tiny_onnx))


def test_all_take_turns_and_everyone_begins_once(subject: Subject) -> None:
    told: list[str] = []
    result = run_size(subject, (64, 64), Plan(["good", "small"], [1], 2, 3), told.append)
    assert [line.split()[1] for line in told] == [
        *("plain", "good", "small"),
        *("good", "small", "plain"),
        *("small", "plain", "good"),
    ]
    assert len(result.peaks) == 3
    assert Counter(len(case.laps) for case in result.cases) == {3: 3}
    assert Plan(["good", "small"], [1], 2, 3).steps() == len(told)


def test_batches_are_whole_and_parts_add_up(subject: Subject) -> None:
    result = run_size(subject, (64, 64), Plan(["good"], [1, 2], 3, 1))
    assert [(case.batch, case.passes) for case in result.cases] == [(1, 3), (1, 3), (2, 4)]
    for case in result.cases[1:]:
        (lap,) = case.laps
        # One millisecond a run, however long the run really took.
        assert lap.copies == pytest.approx(0.001 * case.passes / case.batch)
        assert lap.masks + (lap.copies or 0) + lap.compute + lap.reduction == pytest.approx(lap.seconds)


def test_an_engine_that_cannot_say_what_it_copies(subject: Subject) -> None:
    (lap,) = run_size(subject, (64, 64), Plan(["small"], [1], 1, 1)).cases[1].laps
    assert lap.copies is None
    assert lap.masks + lap.compute + lap.reduction == pytest.approx(lap.seconds)


def test_engines_on_a_device_run_as_the_product_runs_them(subject: Subject) -> None:
    plain, case = run_size(subject, (64, 64), Plan(["device"], [2], 3, 1)).cases
    assert plain.engine == "plain"
    assert (case.engine, case.batch, case.passes) == ("device", 2, 4)
    (lap,) = case.laps
    assert lap.copies is None
    assert lap.masks + lap.compute + lap.reduction == pytest.approx(lap.seconds)


def test_what_cannot_run_is_told_and_stops_no_other(subject: Subject) -> None:
    result = run_size(subject, (64, 64), Plan(["broken", "small", "good"], [1, 4], 1, 1))
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


def test_an_engine_that_was_asked_for_has_to_run(subject: Subject) -> None:
    with pytest.raises(FileFormatError, match="cannot be loaded"):
        run_size(subject, (64, 64), Plan(["broken"], [1], 1, 1, strict=True))
