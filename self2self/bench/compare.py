"""Compare two results of `self2self bench` and find the cases that became slower or faster beyond noise.

The comparison uses the ratio to the plain loop instead of the time. Engine and plain loop were measured in the same
rounds, so a busier machine changes their ratio little. A case counts as changed only when the ranges from the 10th
to the 90th percentile do not overlap and the medians differ by more than `MINIMUM_CHANGE`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from self2self.bench.cases import PLAIN
from self2self.errors import FileFormatError, InputError, typed

BENCHMARK = "self2self bench"
SCHEMA = 1
MINIMUM_CHANGE = 0.05
"""Smallest relative change of a median that is reported."""

Key = tuple[str, str, int, int, int]


def load_result(path: Path) -> dict[str, Any]:
    """Read a result of `self2self bench`.

    Raises:
        InputError: the file is missing or cannot be read.
        FileFormatError: the file is something else, damaged, or of another schema.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{typed('--against', path)}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{typed('--against', path)}: is not JSON. Make one with: self2self bench -o FILE"
        ) from error
    if not isinstance(values, dict) or values.get("benchmark") != BENCHMARK:
        raise FileFormatError(
            f"{typed('--against', path)}: is no result of self2self bench. Make one: self2self bench -o FILE"
        )
    if values.get("schema") != SCHEMA:
        raise FileFormatError(
            f"{typed('--against', path)}: has schema {values.get('schema')}; this self2self compares schema {SCHEMA}. "
            "Measure again: self2self bench -o FILE"
        )
    try:
        for case in values["cases"]:
            _key(case)
            _range(case)
        values["environment"].keys()
        values["model"].keys()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(
            f"{typed('--against', path)}: is damaged ({type(error).__name__}: {error}). Measure again: self2self "
            "bench -o FILE"
        ) from error
    return values


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Compare two results of the same schema.

    Returns:
        ``regressions``, ``improvements`` and ``unchanged`` (lists of cases, each with its key, the ratios to the plain
        loop before and after, and the relative change of the median), ``only_before`` and ``only_after`` (cases that
        only one result has), and ``differences`` (lines about machine, versions and model).
    """
    old = {_key(case): case for case in before["cases"] if case["engine"] != PLAIN}
    new = {_key(case): case for case in after["cases"] if case["engine"] != PLAIN}
    found: dict[str, list[dict[str, Any]]] = {"regressions": [], "improvements": [], "unchanged": []}
    for key in sorted(old.keys() & new.keys()):
        found[verdict(_range(old[key]), _range(new[key]))].append(
            {
                **_named(key),
                "before": old[key]["ratio_to_plain"],
                "after": new[key]["ratio_to_plain"],
                "change": new[key]["ratio_to_plain"]["median"] / old[key]["ratio_to_plain"]["median"] - 1,
            }
        )
    return {
        **found,
        "only_before": [_named(key) for key in sorted(old.keys() - new.keys())],
        "only_after": [_named(key) for key in sorted(new.keys() - old.keys())],
        "differences": differences(before, after),
    }


def verdict(before: tuple[float, float, float], after: tuple[float, float, float]) -> str:
    """Return the list that a case belongs to, from (p10, median, p90) of its ratios; a higher ratio is better."""
    change = after[1] / before[1] - 1
    if change < -MINIMUM_CHANGE and after[2] < before[0]:
        return "regressions"
    if change > MINIMUM_CHANGE and after[0] > before[2]:
        return "improvements"
    return "unchanged"


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Describe differences in machine, versions and model, which can explain a change of speed."""
    old, new = before["environment"], after["environment"]
    lines = [
        f"{key}: {old.get(key)} then, {new.get(key)} now"
        for key in ("cpu", "cpus", "threads", "gpu", "python")
        if old.get(key) != new.get(key)
    ]
    then, now = old.get("versions") or {}, new.get("versions") or {}
    lines += [
        f"{name}: {then.get(name, 'not there')} then, {now.get(name, 'not there')} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    # Widths and channels change the speed; weights do not.
    return lines + [
        f"{key}: {before['model'].get(key)} then, {after['model'].get(key)} now"
        for key in ("channels", "encoder_width", "decoder_widths")
        if before["model"].get(key) != after["model"].get(key)
    ]


def _key(case: dict[str, Any]) -> Key:
    return (case["engine"], case["precision"], int(case["height"]), int(case["width"]), int(case["batch"]))


def _named(key: Key) -> dict[str, Any]:
    return dict(zip(("engine", "precision", "height", "width", "batch"), key, strict=True))


def _range(case: dict[str, Any]) -> tuple[float, float, float]:
    ratio = case["ratio_to_plain"]
    low, middle, high = (float(ratio[name]) for name in ("p10", "median", "p90"))
    if not 0 < low <= middle <= high:
        raise ValueError(f"ratio_to_plain {low}, {middle}, {high}")
    return low, middle, high
