"""Arguments of Python callers: NumPy's numbers are numbers, and wrong types are refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from self2self import EnsembleOptions, FitOptions
from self2self.errors import UsageError
from self2self.machine.arguments import file_path, real_number, switch, text, whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_whole_numbers_become_those_of_python(value: Any) -> None:
    assert type(whole_number("steps", value)) is int
    assert whole_number("steps", value) == 3


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)])
def test_numbers_become_those_of_python(value: Any) -> None:
    assert type(real_number("sigma", value)) is float
    assert real_number("sigma", value) == 0.5


@pytest.mark.parametrize(
    ("convert", "value", "expected"),
    [
        (whole_number, 2.5, "2.5; expected an integer"),
        (whole_number, "3", "'3'; expected an integer"),
        (whole_number, True, "True; expected an integer"),
        (whole_number, np.zeros((50, 50)), "of type ndarray; expected an integer"),
        (real_number, "5", "'5'; expected a number"),
        (real_number, [1], r"\[1\]; expected a number"),
        (text, 3, "3; expected a text"),
        (switch, 1, "1; expected True or False"),
        (file_path, 5, "5; expected a path"),
    ],
)
def test_other_types_are_refused_in_one_line(convert: Any, value: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=rf"^some_name is {expected}\.$"):
        convert("some_name", value)


def test_options_hold_plain_values() -> None:
    fitting = FitOptions(steps=np.int64(0), seed=np.uint32(7), sigma=np.float32(4), nodata=np.uint8(9), run="folder")
    assert [type(value) for value in (fitting.steps, fitting.seed, fitting.sigma, fitting.nodata)] == [
        int,
        int,
        float,
        float,
    ]
    assert fitting.run == Path("folder")
    assert type(EnsembleOptions(passes=np.int16(3)).passes) is int


@pytest.mark.parametrize(
    "wrong", [{"steps": "3"}, {"sigma": "5"}, {"axes": 3}, {"run": 5}, {"neighbours": 1.5}, {"nodata": [1]}]
)
def test_options_of_a_wrong_type_are_usage_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(wrong))} is "):
        FitOptions(**wrong)
