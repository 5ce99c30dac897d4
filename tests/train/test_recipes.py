"""Recipes. The paper's settings are fixed here, so that no tuning of `fast` can change them."""

from dataclasses import replace

import numpy as np
import pytest

from self2self.errors import UsageError
from self2self.imaging.noise import Noise, NoiseKind
from self2self.train.recipes import RECIPES, Recipe, following, recipe_for


@pytest.mark.parametrize(
    ("name", "drop_rate", "steps"), [("paper", 0.4, 4000), ("paper-polyu", 0.7, 5000), ("paper-sidd", 0.9, 1000)]
)
def test_paper_recipes_are_the_official_ones(name: str, drop_rate: float, steps: int) -> None:
    recipe = recipe_for(name)
    assert (recipe.input_drop_rate, recipe.decoder_drop_rate, recipe.steps) == (drop_rate, drop_rate, steps)
    assert (recipe.init, recipe.scratch_scheme, recipe.loss) == ("scratch", "normal", "l1")
    assert (recipe.learning_rate, recipe.betas, recipe.schedule) == (4e-4, (0.9, 0.999), "constant")
    assert (recipe.crop, recipe.average_decay, recipe.quality_weight) == (None, None, 2e-8)
    assert (recipe.encoder_width, recipe.decoder_widths) == (48, (96,) * 5)
    assert (recipe.orientations, recipe.fitted_share, recipe.pass_drop_rate) == (1, 1.0, None)
    assert recipe.matrix_rate is None
    assert recipe.pass_masks(3) == recipe.masks(3)


@pytest.mark.parametrize("name", RECIPES)
def test_json_round_trip(name: str) -> None:
    assert Recipe.from_json(RECIPES[name].to_json()) == RECIPES[name]


def test_json_with_a_field_missing_or_unknown_is_refused() -> None:
    values = RECIPES["fast"].to_json()
    with pytest.raises(ValueError, match="surprise"):
        Recipe.from_json({**values, "surprise": 1})
    del values["crop"]
    with pytest.raises(ValueError, match="crop"):
        Recipe.from_json(values)


def test_a_recipe_of_an_earlier_version_keeps_its_meaning() -> None:
    values = RECIPES["fast"].to_json()
    for later in ("orientations", "fitted_share", "pass_drop_rate", "matrix_rate"):
        del values[later]
    recipe = Recipe.from_json({**values, "camera": True, "noisy_share": 0.5, "even_noise": False})
    assert (recipe.orientations, recipe.fitted_share, recipe.pass_drop_rate) == (1, 1.0, None)


def test_passes_hide_fewer_pixels_than_steps_unless_the_user_names_a_rate() -> None:
    recipe = replace(RECIPES["fast"], input_drop_rate=0.25, pass_drop_rate=0.125)
    step, *decoder = recipe.masks(3)
    hidden, *rest = recipe.pass_masks(3)
    assert (step.keep_probability, hidden.keep_probability, rest) == (0.75, 0.875, decoder)
    assert recipe.with_options(drop_rate=0.5).pass_masks(3)[0].keep_probability == 0.5


def test_fast_that_follows_another_fit_takes_a_quarter_of_its_steps_however_long_the_chain() -> None:
    for init in ("natural", "scratch"):
        alone = recipe_for("fast", init)
        second = following(recipe_for("fast", "runs/first"), alone)
        assert second.steps == alone.steps // 4
        assert second.learning_rate == alone.learning_rate / 2
        assert second.matrix_rate == (None if alone.matrix_rate is None else alone.matrix_rate / 2)
        assert second.fitted_share == {"natural": 0.5, "scratch": 1.0}[init]
        same = {field: getattr(alone, field) for field in ("steps", "learning_rate", "matrix_rate", "fitted_share")}
        assert replace(second, **same) == alone
        assert following(recipe_for("fast", "runs/second"), second) == second


def test_paper_takes_all_its_steps_from_any_weights() -> None:
    assert following(RECIPES["paper"], RECIPES["paper"]) == RECIPES["paper"]
    assert following(RECIPES["fast"], RECIPES["paper"]) == RECIPES["fast"]


def noise(sigma: float, kind: NoiseKind = NoiseKind.INDEPENDENT) -> Noise:
    return Noise(sigma, sigma, sigma, 0.0, kind)


FOLLOWING = ("input_drop_rate", "pass_drop_rate", "decoder_drop_rate", "fitted_share", "target")


@pytest.mark.parametrize("kind", NoiseKind)
@pytest.mark.parametrize("sigma", [0.0, 5.0, 12.0, 25.0, 50.0, 75.0, 1e9])
def test_only_fast_follows_the_noise_and_only_in_some_settings(sigma: float, kind: NoiseKind) -> None:
    chosen = RECIPES["fast"].for_noise(noise(sigma, kind))
    assert replace(chosen, **{name: getattr(RECIPES["fast"], name) for name in FOLLOWING}) == RECIPES["fast"]
    assert chosen.for_noise(noise(25.0)) == RECIPES["fast"].for_noise(noise(25.0)), "it can be chosen again"
    weaker = RECIPES["fast"].for_noise(noise(sigma / 2, kind))
    assert weaker.input_drop_rate <= chosen.input_drop_rate
    assert weaker.rate_of_passes <= chosen.rate_of_passes or weaker.target != chosen.target
    assert chosen.rate_of_passes <= chosen.input_drop_rate
    assert chosen.fitted_share > 0
    for other in (recipe_for("paper"), recipe_for("paper-sidd"), recipe_for("fast", "scratch")):
        assert other.for_noise(noise(sigma, kind)) == other


def test_fine_noise_that_has_been_in_a_coarse_jpeg_is_left_to_the_start_weights() -> None:
    def chosen(step: float, correlation: float, kind: NoiseKind = NoiseKind.CORRELATED) -> Recipe:
        found = Noise(8.0, 8.0, 2.0, correlation, kind, jpeg_step=step)
        return RECIPES["fast"].for_noise(found)

    usual = chosen(0.0, 0.2)
    assert chosen(10.0, 0.2).steps == 0
    assert chosen(10.0, 0.6) == usual, "coarse noise passes JPEG as it is"
    assert chosen(2.0, 0.2) == usual, "fine steps change little"
    assert chosen(10.0, 0.2, NoiseKind.SHARED).steps == usual.steps
    shares = [0.0 if not fit.steps else fit.fitted_share for fit in (chosen(10.0, 0.01 * c) for c in range(20, 60))]
    assert shares == sorted(shares)
    assert max(np.diff(shares)) < 0.15, "nearly the same image gets nearly the same result"


def test_only_strong_independent_noise_is_learnt_from_hidden_values() -> None:
    gradual = set(NoiseKind) - {NoiseKind.IMPULSES}
    assert all(RECIPES["fast"].for_noise(noise(2.0, kind)).target == "simulated" for kind in gradual)
    assert {kind: RECIPES["fast"].for_noise(noise(20.0, kind)).target for kind in NoiseKind} == {
        NoiseKind.INDEPENDENT: "hidden",
        NoiseKind.IMPULSES: "hidden",
        NoiseKind.SHARED: "simulated",
        NoiseKind.CORRELATED: "simulated",
    }


def test_no_steps_leave_the_weights_of_a_start_but_not_random_ones() -> None:
    assert RECIPES["fast"].with_options(steps=0).steps == 0
    with pytest.raises(UsageError, match="--steps is -1; expected at least 0"):
        RECIPES["fast"].with_options(steps=-1)
    for recipe in (RECIPES["paper"], recipe_for("fast", "scratch")):
        with pytest.raises(UsageError, match="--steps is 0; expected at least 1"):
            recipe.with_options(steps=0)


def test_what_the_user_asks_for_wins_over_the_noise() -> None:
    assert RECIPES["fast"].for_noise(noise(5.0, NoiseKind.CORRELATED)).with_options(steps=7).steps == 7
    recipe = RECIPES["fast"].for_noise(noise(75.0)).with_options(steps=7, drop_rate=0.3)
    assert (recipe.steps, recipe.input_drop_rate, recipe.rate_of_passes) == (7, 0.3, 0.3)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"orientations": 2}, "orientations is 2"),
        ({"fitted_share": 0.0}, "fitted_share is 0;"),
        ({"fitted_share": 1.5}, "fitted_share is 1.5"),
        ({"pass_drop_rate": 1.0}, "drop rate is 1"),
        ({"target": "clean"}, "target is 'clean'"),
        ({"target": "simulated", "init": "scratch"}, "expected hidden, or simulated with start weights"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, float], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Recipe.from_json(RECIPES["fast"].to_json() | change)


def test_drop_rate_sets_both_rates_of_a_paper_recipe_and_only_the_input_of_fast() -> None:
    paper = recipe_for("paper").with_options(drop_rate=0.3)
    assert (paper.input_drop_rate, paper.decoder_drop_rate) == (0.3, 0.3)
    fast = recipe_for("fast").with_options(drop_rate=0.3)
    assert (fast.input_drop_rate, fast.decoder_drop_rate) == (0.3, RECIPES["fast"].decoder_drop_rate)


def test_fast_from_scratch_takes_more_steps() -> None:
    assert recipe_for("fast", "scratch").steps > recipe_for("fast").steps
    assert recipe_for("fast", "scratch").init == "scratch"
    assert recipe_for("paper", "scratch") == recipe_for("paper")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 0}, "--steps is 0; expected at least 1"),
        ({"drop_rate": -0.1}, "drop rate is -0.1; expected 0.01 to 0.99"),
        ({"drop_rate": 1.5}, "drop rate is 1.5; expected"),
        ({"drop_rate": 1.0}, "drop rate is 1; expected"),
        ({"drop_rate": float("nan")}, "drop rate is nan; expected"),
        ({"drop_rate": 0.0}, "--drop-rate is 0; expected 0.01 to 0.99"),
        ({"drop_rate": 0.999}, "keeps nothing"),
    ],
)
def test_wrong_options_name_the_option_and_what_to_type(options: dict[str, float], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe_for("paper").with_options(**options)  # type: ignore[arg-type]
    assert text in str(caught.value)


def test_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="expected one of: fast, paper, paper-polyu, paper-sidd"):
        recipe_for("slow")


def test_natural_start_is_for_fast_alone() -> None:
    with pytest.raises(UsageError, match="Use --recipe fast"):
        recipe_for("paper", "natural")
