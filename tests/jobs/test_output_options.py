"""Where results go."""

from pathlib import Path

from self2self.jobs import OutputOptions


def test_names_of_files_may_be_strings() -> None:
    options = OutputOptions(output="a.png", uncertainty="b.tif", report="c.html")  # type: ignore[arg-type]
    assert options == OutputOptions(output=Path("a.png"), uncertainty=Path("b.tif"), report=Path("c.html"))
    assert OutputOptions().output is None


def test_a_report_needs_the_uncertainty_too() -> None:
    assert OutputOptions(report=Path("c.html")).needs_uncertainty
    assert not OutputOptions(output=Path("a.png")).needs_uncertainty
