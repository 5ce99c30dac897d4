"""Groups of options: a dataclass in the code is one option for each field on the command line."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from self2self.cli.groups import EnsembleGroup, RecipeGroup, with_groups
from self2self.errors import UsageError
from self2self.jobs import EnsembleOptions, FitOptions, OutputOptions

SEEN: list[tuple[Path, RecipeGroup, int]] = []


@with_groups
def toy(
    path: Annotated[Path, typer.Argument()],
    *,
    first: Annotated[int, typer.Option("--first")] = 1,
    fitting: RecipeGroup,
    last: Annotated[int, typer.Option("--last")] = 2,
) -> None:
    SEEN.append((path, fitting, first + last))


def test_a_group_is_spread_over_options_in_its_place_and_comes_back_whole() -> None:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(toy)
    runner = CliRunner()
    done = runner.invoke(app, ["a.png", "--steps", "7", "--no-iqa", "--last", "5"])
    assert done.exit_code == 0, done.output
    assert [(Path("a.png"), RecipeGroup(steps=7, iqa=False), 6)] == SEEN
    shown = runner.invoke(app, ["--help"]).output
    order = ["--first", "--recipe", "--init", "--steps", "--drop-rate", "--iqa ", "--iqa-weights", "--last"]
    assert sorted(order, key=shown.index) == order


def test_all_options_of_a_fit_arrive() -> None:
    weights = Path("w.pth")
    group = RecipeGroup("paper", "scratch", 7, 0.3, 9.0, 0.5, True, weights, "-1", True)
    got = group.options(seed=3, device="cpu", run=Path("r"), page=2, wait=True, fit_pages="each")
    assert got == FitOptions(
        recipe="paper",
        init="scratch",
        steps=7,
        drop_rate=0.3,
        sigma=9.0,
        strength=0.5,
        nodata=-1.0,
        mosaic=True,
        seed=3,
        device="cpu",
        run=Path("r"),
        iqa=True,
        iqa_weights=weights,
        page=2,
        fit_pages="each",
        wait=True,
    )
    plain = RecipeGroup().options(seed=0, device="auto", run=None, page=None, wait=False)
    assert plain == FitOptions()


def test_all_options_of_an_ensemble_arrive() -> None:
    group = EnsembleGroup(
        "ort", "50", 0.5, "independent", False, "4", "2GB", "host", True, Path("u.tif"), Path("r.html")
    )
    got = group.options(seed=3)
    assert got == EnsembleOptions(
        engine="ort",
        passes=50,
        batch=4,
        seed=3,
        tolerance=0.5,
        balanced=False,
        flips=False,
        memory=2 * 10**9,
        mask_source="host",
        allow_fallback=True,
    )
    default = EnsembleOptions()
    assert EnsembleGroup().options(seed=0) == default
    # Commands and jobs set these by what they write and read.
    names = {field.name for field in fields(EnsembleOptions)} - {"uncertainty", "restore", "pages"}
    assert all(getattr(got, name) != getattr(default, name) for name in names)
    assert group.outputs(output="o.png", force=True, wait=True) == OutputOptions(
        output=Path("o.png"), uncertainty=Path("u.tif"), report=Path("r.html"), force=True, wait=True
    )
    assert EnsembleGroup().outputs(output=None, force=False, wait=False) == OutputOptions()


@pytest.mark.parametrize("wrong", [{"passes": "few"}, {"batch": "few"}, {"memory": "few"}, {"masks": "few"}])
def test_a_text_that_cannot_be_read_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="is 'few'; expected"):
        EnsembleGroup(**wrong).options(seed=0)
