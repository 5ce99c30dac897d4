"""How recipe and options decide the number of passes and how they are drawn."""

from __future__ import annotations

import pytest

from self2self.errors import UsageError
from self2self.runtime.ensemble.pass_plan import (
    MAXIMUM_PASSES,
    TOLERANCE,
    Passes,
    PassPlan,
    check_pass_plan,
    pass_plan_for,
)


@pytest.mark.parametrize("recipe", ["paper", "paper-polyu", "paper-sidd"])
def test_the_paper_recipes_have_500_plain_passes(recipe: str) -> None:
    assert pass_plan_for(recipe) == PassPlan(500, tolerance=None, balanced=False, flips=False)


@pytest.mark.parametrize("recipe", ["fast", "", "something of a later version"])
def test_other_recipes_end_at_the_tolerance(recipe: str) -> None:
    assert pass_plan_for(recipe) == PassPlan(MAXIMUM_PASSES, TOLERANCE, balanced=True, flips=True)


def test_options_of_the_user_override_the_recipe() -> None:
    assert pass_plan_for("fast", 7, balanced=False, flips=False) == PassPlan(7, None, balanced=False, flips=False)
    assert pass_plan_for("fast", 500) == PassPlan(500, None, balanced=True, flips=True)
    assert pass_plan_for("paper", "auto", 0.5) == PassPlan(MAXIMUM_PASSES, 0.5, balanced=False, flips=False)
    assert pass_plan_for("paper", tolerance=0.5) == PassPlan(MAXIMUM_PASSES, 0.5, balanced=False, flips=False)
    assert pass_plan_for("paper", balanced=True, flips=True) == PassPlan(500, None, balanced=True, flips=True)


@pytest.mark.parametrize(
    ("passes", "tolerance", "text"),
    [
        (0, None, "--passes is 0; expected at least 1, for example --passes 500, or auto."),
        (-5, None, "--passes is -5; expected at least 1"),
        ("auto", 0.0, "--tolerance is 0; expected more than 0"),
        (None, float("nan"), "--tolerance is nan; expected more than 0"),
        (None, float("inf"), "--tolerance is inf; expected more than 0"),
        (50, 0.3, "--tolerance decides the number of passes; leave out --passes 50."),
    ],
)
def test_wrong_passes_and_tolerances_are_refused(passes: Passes | None, tolerance: float | None, text: str) -> None:
    for check in (lambda: check_pass_plan(passes, tolerance), lambda: pass_plan_for("fast", passes, tolerance)):
        with pytest.raises(UsageError) as caught:
            check()
        assert text in str(caught.value)
