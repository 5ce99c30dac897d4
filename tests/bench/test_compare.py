"""Comparison of an earlier result with a new one."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from self2self.bench.compare import compare, load_result, verdict
from self2self.bench.table import comparison_lines
from self2self.errors import FileFormatError, InputError, Self2SelfError
from tests.bench.results import a_result

STEADY = [1.0, 1.0, 1.01, 0.99, 1.0]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((1.9, 2.0, 2.1), (1.5, 1.6, 1.7), "regressions"),
        ((1.9, 2.0, 2.1), (2.3, 2.4, 2.5), "improvements"),
        # 20 % slower in the median, but the ranges overlap.
        ((1.5, 2.0, 2.1), (1.4, 1.6, 1.7), "unchanged"),
        ((1.5, 1.6, 2.2), (1.9, 2.0, 2.1), "unchanged"),
        # Beyond the noise, but below MINIMUM_CHANGE.
        ((1.99, 2.0, 2.01), (1.93, 1.94, 1.95), "unchanged"),
        ((1.99, 2.0, 2.01), (2.05, 2.06, 2.07), "unchanged"),
        ((1.99, 2.0, 2.01), (1.99, 2.0, 2.01), "unchanged"),
    ],
)
def test_only_clear_and_large_changes_are_named(
    before: tuple[float, float, float], after: tuple[float, float, float], expected: str
) -> None:
    assert verdict(before, after) == expected


def test_regressions_are_named_with_their_figures() -> None:
    before = a_result({("ort", 1): STEADY, ("ort", 4): STEADY, ("torch", 1): STEADY})
    after = a_result({("ort", 1): [s * 1.25 for s in STEADY], ("ort", 4): STEADY, ("mnn", 1): STEADY})
    found = compare(before, after)
    (slower,) = found["regressions"]
    assert (slower["engine"], slower["precision"], slower["batch"]) == ("ort", "fp32", 1)
    assert slower["change"] == pytest.approx(-0.2)
    assert [case["batch"] for case in found["unchanged"]] == [4]
    assert [case["engine"] for case in found["only_before"]] == ["torch"]
    assert [case["engine"] for case in found["only_after"]] == ["mnn"]
    assert found["improvements"] == []
    assert found["differences"] == []
    text = "\n".join(comparison_lines({"file": "old.json", **found}))
    assert "regression: ort fp32 64x96 batch 1: 2.00x (1.99-2.01) then, 1.60x (1.59-1.61) now, -20 %" in text
    assert "1 slower, 0 faster, 1 unchanged" in text
    assert "not measured now: torch fp32 64x96 batch 1" in text


def test_a_busier_machine_alone_is_no_regression() -> None:
    """Engine and plain loop take twice as long, so the ratio stays the same."""
    before = a_result({("ort", 1): STEADY})
    after = copy.deepcopy(before)
    for case in after["cases"]:
        for key in ("seconds_per_pass", "passes_per_second"):
            case[key] = {name: value * (2 if key == "seconds_per_pass" else 0.5) for name, value in case[key].items()}
    assert compare(before, after)["regressions"] == []


def test_differences_of_machine_version_and_network_are_reported() -> None:
    before = a_result({("ort", 1): STEADY})
    after = copy.deepcopy(before)
    after["environment"]["cpu"] = "Another"
    after["environment"]["versions"] = {"torch": "3.0", "MNN": "1"}
    after["model"]["encoder_width"] = 32
    assert compare(before, after)["differences"] == [
        "cpu: Abacus <1> then, Another now",
        "MNN: not there then, 1 now",
        "torch: 2.0 then, 3.0 now",
        "encoder_width: 48 then, 32 now",
    ]


def test_a_written_result_can_be_loaded(tmp_path: Path) -> None:
    result = a_result({("ort", 1): STEADY})
    (tmp_path / "old.json").write_text(json.dumps(result))
    assert load_result(tmp_path / "old.json") == result


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (None, InputError, "cannot be read"),
        ("not json", FileFormatError, "is not JSON"),
        ("[]", FileFormatError, "is no result of self2self bench"),
        ('{"benchmark": "throughput"}', FileFormatError, "is no result of self2self bench"),
        ('{"benchmark": "self2self bench", "schema": 99}', FileFormatError, "has schema 99"),
        ('{"benchmark": "self2self bench", "schema": 1}', FileFormatError, "is damaged"),
        ('{"benchmark": "self2self bench", "schema": 1, "cases": [{}]}', FileFormatError, "is damaged"),
        ('{"benchmark": "self2self bench", "schema": 1, "cases": [], "environment": 3}', FileFormatError, "is damaged"),
    ],
)
def test_files_that_are_no_results_are_refused(
    content: str | None, error: type[Self2SelfError], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=text) as caught:
        load_result(path)
    assert "\n" not in str(caught.value)


def test_a_result_with_an_inconsistent_ratio_is_damaged(tmp_path: Path) -> None:
    result = a_result({("ort", 1): STEADY})
    result["cases"][1]["ratio_to_plain"]["p10"] = 9.0
    (tmp_path / "old.json").write_text(json.dumps(result))
    with pytest.raises(FileFormatError, match="is damaged"):
        load_result(tmp_path / "old.json")
