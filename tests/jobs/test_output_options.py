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


def test_several_results_go_into_a_folder_that_need_not_exist(tmp_path: Path) -> None:
    outputs = OutputOptions(output=tmp_path / "results", job="key")
    outputs.check([tmp_path / "a.png", tmp_path / "b.png"])
    several = outputs.for_several()
    assert several.output_for(tmp_path / "a.png") == tmp_path / "results" / "a.denoised.png"
    assert several.job == "key"
