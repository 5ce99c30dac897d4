"""How long a phase will take, told once and only where it is long."""

from __future__ import annotations

import pytest

from self2self.cli.estimate import Estimate, in_words


def told(seconds_per_part: float, parts: int) -> list[str]:
    """What is told while `parts` parts of a phase are done at an even speed."""
    notes: list[str] = []
    now = [100.0]
    estimate = Estimate(notes.append, lambda: now[0])
    for done in range(parts + 1):
        estimate.progress("the fit", done, parts)
        now[0] += seconds_per_part
    return notes


def test_a_long_phase_is_told_once_and_soon() -> None:
    # 3 of 100 parts of 4 s are done when the estimate comes.
    assert told(4.0, 100) == ["the fit will take about 7 minutes more."]
    assert told(0.01, 100_000) == ["the fit will take about 17 minutes more."]


@pytest.mark.parametrize(("seconds", "parts"), [(0.1, 100), (20.0, 1), (5.0, 4)])
def test_what_is_over_soon_has_no_estimate(seconds: float, parts: int) -> None:
    assert told(seconds, parts) == []


@pytest.mark.parametrize("passes_of_page", [1, 4])
def test_the_time_of_earlier_pages_does_not_count_for_the_passes_of_a_page(passes_of_page: int) -> None:
    notes: list[str] = []
    now = [100.0]
    estimate = Estimate(notes.append, lambda: now[0])
    for page in range(3):
        for done in range(passes_of_page):
            now[0] += 1.0
            estimate.progress("the passes", done + 1, passes_of_page)
        # Then the page is written, and the next one is read.
        now[0] += 60.0
        estimate.progress("the pages", page + 1, 5)
    assert notes == ["the pages will take about 3 minutes more."]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(31, "about 30 seconds"), (240, "about 4 minutes"), (3600, "about 60 minutes"), (9000, "about 2.5 hours")],
)
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
