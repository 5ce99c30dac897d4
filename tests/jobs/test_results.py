"""What results say of themselves in one line."""

import pytest

from self2self.jobs.results import range_text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (None, ""),
        ((0.0, 255.0), ""),
        ((7.0, 240.0), ""),
        ((10.0, 10.0), ""),
        # A mask that is stored in 8 bits.
        ((0.0, 1.0), "; 255 grey levels are from 0 to 1"),
        ((3.0, 61.0), "; 255 grey levels are from 3 to 61"),
        ((-5.0, 250.0), "; 255 grey levels are from -5 to 250"),
        ((102.0, 4095.0), "; 255 grey levels are from 102 to 4095"),
    ],
)
def test_the_range_of_grey_levels_is_printed_where_it_is_unusual(values: tuple[float, float] | None, text: str) -> None:
    assert range_text(values) == text
