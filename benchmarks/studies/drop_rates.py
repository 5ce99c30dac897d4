"""Drop rate of the input and number of steps at three levels of white noise, for ``paper`` and ``fast``.

- ``paper``: the rate is that of the decoder, too, as in the recipe. Its learning rate is constant, so one fit has all
  lengths: scores are those of passes after a share of `Settings.steps`.
- ``fast``: each length is a fit of its own, whose learning rate falls to 0. Scores are those of the whole product, a
  single pass. All else is as the product chooses it for the noise. So the cell with the rate that it chooses and
  150 steps is the automatic choice.

Crops are smaller than photographs, and what holds for them holds for few pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from benchmarks.clocked import Stopwatch, clocked_fit
from benchmarks.methods import recipe_for_image, recipe_inputs, run_recipe, seen_by
from benchmarks.pairs import Pair
from benchmarks.results_file import Row
from benchmarks.studies.study import (
    FAST_STEP_SECONDS,
    PAPER_STEP_SECONDS,
    Job,
    Settings,
    Study,
    colour,
    mean_by,
    new_axes,
    with_gaussian,
)
from self2self.imaging.noise import Noise
from self2self.train.fit import FitState
from self2self.train.prediction import predict
from self2self.train.recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMAS = (25, 15, 50)
"""Levels of the noise, the most usual one first."""
PAPER_RATES, PAPER_SHARES = (0.2, 0.4, 0.6), (0.25, 0.5, 1.0)
FAST_RATES, FAST_STEPS = (0.1, 0.2, 0.4), (50, 150)
RECIPE_NAMES = ("paper", "fast")
EXPORT_SECONDS = 2.0
PASS_SHARE = 0.25
"""Time of a pass over that of a step."""


def method(recipe: str, rate: float, steps: int) -> str:
    """Name of a cell."""
    return f"{recipe}, rate {rate:g}, {steps} steps"


def cell(recipe: str, sigma: float, rate: float, steps: int, automatic: bool) -> Row:
    """Fields of a cell beside its scores."""
    return {"recipe": recipe, "sigma": sigma, "rate": rate, "steps": steps, "automatic": automatic}


def lengths(settings: Settings) -> list[int]:
    """The numbers of steps of ``paper``."""
    return [max(1, round(share * settings.steps)) for share in PAPER_SHARES]


def run_paper(pair: Pair, rate: float, settings: Settings) -> dict[str, Row]:
    """One fit with ``paper``, scored at each of its lengths."""
    recipe = RECIPES["paper"].with_options(settings.steps, rate)
    wanted, watch = lengths(settings), Stopwatch()
    rows: dict[str, Row] = {}

    def look(state: FitState) -> None:
        scores = pair.scores(predict(state.weights(), pair.noisy, recipe, passes=settings.passes))
        automatic = rate == RECIPES["paper"].input_drop_rate and state.step == wanted[-1]
        rows[method("paper", rate, state.step)] = {
            **cell("paper", pair.sigma or 0, rate, state.step, automatic),
            **watch.seconds("fit_"),
            **scores,
        }

    look(clocked_fit(pair.noisy, recipe, None, watch, wanted[:-1], look))
    return {name: rows[name] for name in (method("paper", rate, steps) for steps in wanted)}


@cache
def _chosen(image: str, side: int, sigma: float) -> tuple[Pair, Recipe, Noise | None]:
    seen = seen_by("fast", with_gaussian(image, side, sigma))
    return (seen, *recipe_for_image("fast", seen.noisy))


def run_fast(seen: Pair, recipe: Recipe, noise: Noise | None, automatic: bool) -> dict[str, Row]:
    """One fit of the product."""
    done = run_recipe(seen, recipe, noise, 0, None, {}, None, lambda row: None)
    fields = cell("fast", seen.sigma or 0, recipe.input_drop_rate, recipe.steps, automatic)
    kept = {key: value for key, value in done.items() if key not in ("curve", "standard_error")}
    return {method("fast", recipe.input_drop_rate, recipe.steps): {**fields, **kept}}


def jobs(settings: Settings) -> list[Job]:
    """A fit for each level, rate and image; for ``fast``, which comes first, also for each length."""
    crops = [(image, sigma) for image in settings.images for sigma in SIGMAS]
    return [
        *(job for image, sigma in crops for job in fast_jobs(image, settings.side, sigma)),
        *(job for image, sigma in crops for job in paper_jobs(image, sigma, settings)),
    ]


def fast_jobs(image: str, side: int, sigma: float) -> Iterator[Job]:
    """A fit for each rate and length."""
    seen, chosen, noise = _chosen(image, side, sigma)
    for rate in FAST_RATES:
        for length in FAST_STEPS:
            recipe = replace(chosen, input_drop_rate=rate, steps=length)
            is_automatic = (rate, length) == (chosen.input_drop_rate, chosen.steps)
            seconds = EXPORT_SECONDS + length * FAST_STEP_SECONDS * min(side, chosen.crop or side) ** 2
            names, inputs = (method("fast", rate, length),), recipe_inputs(recipe, seen, noise)
            yield Job(seen.name, names, inputs, seconds, partial(run_fast, seen, recipe, noise, is_automatic))


def paper_jobs(image: str, sigma: float, settings: Settings) -> Iterator[Job]:
    """A fit for each rate, which has all lengths."""
    pair = with_gaussian(image, settings.side, sigma)
    steps = settings.steps + len(PAPER_SHARES) * PASS_SHARE * settings.passes
    seconds = steps * PAPER_STEP_SECONDS * settings.side**2
    for rate in PAPER_RATES:
        names = tuple(method("paper", rate, length) for length in lengths(settings))
        yield Job(pair.name, names, {}, seconds, partial(run_paper, pair, rate, settings))


def derived(rows: list[Row]) -> list[Row]:
    """For each recipe and level: the automatic cell and the best one, from means over the images."""
    means = mean_by(rows, ("recipe", "sigma", "rate", "steps", "automatic"), "psnr")
    found = []
    for recipe, sigma in dict.fromkeys(key[:2] for key in means):
        cells = {key[2:]: psnr for key, psnr in means.items() if key[:2] == (recipe, sigma)}
        own = next((key for key in cells if key[2]), None)
        if own is None:
            continue
        best = max(cells, key=lambda key: cells[key])
        found.append(
            {
                "image": f"all at σ {sigma:g}",
                "method": f"best of {recipe}",
                "of": recipe,
                "level": f"{sigma:g}",
                "automatic": f"{own[0]:g}, {own[1]}",
                "automatic_psnr": round(cells[own], 3),
                "best": f"{best[0]:g}, {best[1]}",
                "best_psnr": round(cells[best], 3),
                "gap": round(cells[best] - cells[own], 3),
            }
        )
    return found


def draw(rows: list[Row]) -> Figure:
    """PSNR by drop rate, less the best of the recipe at that level; a line for each level, dotted for fewer steps."""
    means = mean_by(rows, ("recipe", "sigma", "rate", "steps"), "psnr")
    recipes = [name for name in RECIPE_NAMES if any(key[0] == name for key in means)]
    figure, panels = new_axes(len(recipes))
    for axes, recipe in zip(panels, recipes, strict=True):
        for index, sigma in enumerate(sorted(SIGMAS)):
            cells = {key[2:]: psnr for key, psnr in means.items() if key[:2] == (recipe, sigma)}
            if not cells:
                continue
            best, longest = max(cells.values()), max(steps for _, steps in cells)
            for steps in sorted({steps for _, steps in cells}):
                points = sorted((rate, psnr - best) for (rate, length), psnr in cells.items() if length == steps)
                label = f"σ {sigma}" if steps == longest else None
                style = "o-" if steps == longest else "o:"
                axes.plot(
                    *zip(*points, strict=True), style, color=colour(index), markersize=3, linewidth=1, label=label
                )
        axes.set(xlabel="drop rate of the input", title=recipe)
        axes.legend(fontsize=8, frameon=False)
    panels[0].set_ylabel("PSNR less the best cell (dB)")
    return figure


STUDY = Study(
    "drop-rates",
    "Which drop rate and how many steps are best, and is the automatic choice near them?",
    Settings(("chelsea",), side=64, steps=300, passes=32),
    Settings(("chelsea", "camera", "astronaut", "coffee"), side=128, steps=4000, passes=100),
    jobs,
    draw,
    derived,
)
