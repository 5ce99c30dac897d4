"""Recipes: all settings of a fit in one immutable object.

The ``paper`` recipes have the settings of the official Self2Self+ code (arXiv 2307.10695), one for
each data set that it reports. ``fast`` is this project's own; dev/log has the trials behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from self2self.errors import UsageError, typed
from self2self.imaging.noise import Noise, NoiseKind
from self2self.imaging.smoothing import smooth_step
from self2self.model.contract import MINIMUM_SIZE, SIZE_MULTIPLE, MaskSpec, mask_specs, quantise_keep
from self2self.model.layers import LEVELS

INITS = ("scratch", "natural")

TARGETS = ("hidden", "simulated")

ORIENTATIONS = (1, 4, 8)

LATER_FIELDS: dict[str, Any] = {
    "orientations": 1,
    "fitted_share": 1.0,
    "pass_drop_rate": None,
    "matrix_rate": None,
    "target": "hidden",
    "expects_clipping": False,
    "rounds_products": False,
    "follows_noise": False,
    "removes_impulses": False,
}
"""Fields that recipes of earlier versions do not have, with the values that describe those versions."""


REMOVED_FIELDS = ("camera", "noisy_share", "even_noise")
"""Fields of earlier versions whose meaning now stands in `imaging.noise.Noise`."""


class Choice(NamedTuple):
    """Settings of ``fast`` for one kind of noise.

    Attributes:
        target: see `Recipe`.
        fit_drop_rate: drop rate of the input in the fit.
        pass_drop_rate: drop rate of the input in the passes. A pass loses the hidden pixels; the weaker the noise, the
            more detail is lost with them.
        decoder_drop_rate: see `Recipe`.
        fitted_share: share of the fitted weights in the weights for inference. The stronger the noise, the more of it
            the fitted weights have learnt.
    """

    target: str
    fit_drop_rate: float
    pass_drop_rate: float
    decoder_drop_rate: float
    fitted_share: float


SIMULATED = Choice("simulated", 0.05, 0.05, 0.0, 1.0)
FOR_KIND: dict[NoiseKind, tuple[tuple[float, Choice], ...]] = {
    NoiseKind.INDEPENDENT: (
        (8.0, SIMULATED),
        (12.0, Choice("hidden", 0.1, 0.02, 0.03, 0.5)),
        (17.0, Choice("hidden", 0.1, 0.1, 0.03, 0.5)),
        (35.0, Choice("hidden", 0.2, 0.1, 0.03, 0.5)),
        (math.inf, Choice("hidden", 0.2, 0.2, 0.03, 0.3)),
    ),
    NoiseKind.IMPULSES: ((math.inf, Choice("hidden", 0.3, 0.3, 0.03, 1.0)),),
    NoiseKind.SHARED: ((math.inf, SIMULATED._replace(fitted_share=0.5)),),
    NoiseKind.CORRELATED: ((math.inf, SIMULATED),),
}
"""Rows of the largest standard deviation of the noise, in 8-bit grey levels, and the choice up to it. All were tuned on
images for which no result is reported (dev/log).

- The noise of a hidden value can be predicted from what shares it. So for noise that channels or neighbours share, the
  steps learn from simulated noise. They show nearly all values and drop no activation. So the network predicts in a
  single pass what it predicts in many (with a decoder drop rate of 0.03, it is up to 1.7 dB worse).
- What a fit to simulated noise learns of noise that only channels share is worse than the start weights as often as
  better, so half of it counts.
- An impulse that is visible spoils the prediction around it, so more is hidden in the passes, too.
- Where noise is weak, nearly all of an image is visible in the passes. A fit to hidden values does not learn what the
  network makes of visible ones, and sharp edges become worse than from the start weights. So the steps learn from
  simulated noise there, too.
"""

FINE_JPEG_STEP, COARSE_JPEG_STEP = 4.0, 5.0
"""Steps of JPEG's rounding, in 8-bit grey levels: up to the first, it takes little of the noise; from the second on,
much of noise that is fine. They are 3.7 for quality 85, 5 for 80 and 6 for 75."""
CORRELATION_OF_FINE_NOISE, CORRELATION_OF_COARSE_NOISE = 0.33, 0.47
"""Correlation of neighbours in what start weights remove from such a JPEG: up to the first, its noise was independent
before, and from the second on it may have been coarse. It is 0.1 to 0.47 for noise that was independent, and 0.42 to
0.63 for cameras' noise, which loses more without a fit than the other gains."""
LEAST_FITTED_SHARE = 0.1
"""Below this share of a fit, there is no fit: it would bring less than 0.05 dB."""


def _share_that_can_be_simulated(noise: Noise) -> float:
    """How far a fit may learn from noise simulated like `noise`, from 0 to 1.

    JPEG takes fine noise from some places and leaves it in others. Simulated noise is alike everywhere, so a fit to it
    ends below the start weights, which have seen noise behind JPEG. Coarse noise passes JPEG as it is.
    """
    if noise.kind != NoiseKind.CORRELATED:
        return 1.0
    coarse_step = smooth_step(noise.jpeg_step, FINE_JPEG_STEP, COARSE_JPEG_STEP)
    coarse_noise = smooth_step(noise.correlation, CORRELATION_OF_FINE_NOISE, CORRELATION_OF_COARSE_NOISE)
    return 1.0 - coarse_step * (1.0 - coarse_noise)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings for fitting a network to one image.

    Attributes:
        name: name for `--recipe`.
        steps: number of optimiser updates; with 0 the start weights are the result.
        input_drop_rate: probability that a pixel value is hidden from the network.
        decoder_drop_rate: probability that a decoder activation is dropped.
        init: ``"scratch"`` (random weights, so that the fit uses the image alone) or ``"natural"`` (weights that ship
            with the package and were trained on photographs).
        target: target of a step: ``"hidden"`` for the values of the image that the mask hides, or ``"simulated"`` for
            the start weights' estimate of the image, whose input is this estimate with simulated noise
            (`train.simulated_targets`).
        expects_clipping: where noise is cut off at black or white, compare hidden values with the mean that the
            prediction's noisy values have after clipping (`train.clipping`).
        rounds_products: compute steps in bfloat16 on CPUs that multiply it faster (`train.fused_forward`), as
            PyTorch uses TF32 on a GPU; weights and gradients stay float32.
        scratch_scheme: scheme by which `network.initialise` draws weights for ``"scratch"``.
        loss: ``"l1"`` or ``"l2"``, over the values that count.
        learning_rate: peak rate of Adam.
        betas: Adam's decay rates.
        matrix_rate: peak rate of Muon, which then replaces Adam for most weights (`train.muon`); None for Adam alone.
        schedule: ``"constant"`` or ``"cosine"`` (to zero at the last step).
        crop: side of the random square that a step uses, in pixels; None for the whole image.
        orientations: number of orientations from which each step draws one: 1 (as the image is), 4 (mirrored) or 8
            (also transposed, where the crop is square).
        average_decay: decay per step of the exponential weight average; None for no average.
        fitted_share: position of the weights for inference between the start weights (0) and the fitted ones (1). Has
            no meaning for random start weights.
        pass_drop_rate: probability that a pass of the ensemble hides a pixel value; None for `input_drop_rate`.
        follows_noise: whether drop rates, target and `fitted_share` follow the noise of the image (`for_noise`).
        removes_impulses: whether impulses are the noise of the image, and are replaced before fit and passes.
        quality_weight: factor of the no-reference quality term, where `fit` has one.
        encoder_width: channels of every encoder level.
        decoder_widths: channels of the decoder levels, coarsest first.
    """

    name: str
    steps: int
    input_drop_rate: float
    decoder_drop_rate: float
    init: str = "scratch"
    target: str = "hidden"
    expects_clipping: bool = False
    rounds_products: bool = False
    scratch_scheme: str = "normal"
    loss: str = "l1"
    learning_rate: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.999)
    matrix_rate: float | None = None
    schedule: str = "constant"
    crop: int | None = None
    orientations: int = 1
    average_decay: float | None = None
    fitted_share: float = 1.0
    pass_drop_rate: float | None = None
    follows_noise: bool = False
    removes_impulses: bool = False
    quality_weight: float = 2e-8
    encoder_width: int = 48
    decoder_widths: tuple[int, ...] = (96, 96, 96, 96, 96)

    def masks(self, channels: int) -> tuple[MaskSpec, ...]:
        """All masks of a training step for images of `channels` channels."""
        return mask_specs(
            channels, self.encoder_width, self.decoder_widths, self.input_drop_rate, self.decoder_drop_rate
        )

    def pass_masks(self, channels: int) -> tuple[MaskSpec, ...]:
        """All masks of a pass of the ensemble; they differ from those of a step in the input's drop rate alone."""
        return mask_specs(
            channels, self.encoder_width, self.decoder_widths, self.rate_of_passes, self.decoder_drop_rate
        )

    @property
    def rate_of_passes(self) -> float:
        """Probability that a pass of the ensemble hides a pixel value."""
        return self.input_drop_rate if self.pass_drop_rate is None else self.pass_drop_rate

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain values, which `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote, also with an earlier version.

        Raises:
            TypeError, ValueError: fields are missing or unknown, or have the wrong type.
            UsageError: a value is out of its range.
        """
        known = {field.name for field in fields(cls)}
        values = LATER_FIELDS | {key: value for key, value in values.items() if key not in REMOVED_FIELDS}
        if set(values) != known:
            raise ValueError(f"recipe fields {sorted(set(values) ^ known)}")
        # JSON has no tuples.
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return validated(cls(**plain))

    @property
    def starts_for_single_pass(self) -> bool:
        """Whether a fit starts from the start weights for a single pass: where its steps show nearly all values."""
        return self.target == "simulated"

    def for_noise(self, noise: Noise) -> Recipe:
        """A copy with the settings for `noise` (`FOR_KIND`), or the recipe itself if it follows no noise."""
        if not self.follows_noise:
            return self
        choice = next(row for largest, row in FOR_KIND[noise.kind] if not noise.sigma > largest)
        known = _share_that_can_be_simulated(noise)
        return replace(
            self,
            steps=self.steps if known >= LEAST_FITTED_SHARE else 0,
            target=choice.target,
            input_drop_rate=choice.fit_drop_rate,
            pass_drop_rate=choice.pass_drop_rate,
            decoder_drop_rate=choice.decoder_drop_rate,
            fitted_share=choice.fitted_share * max(known, LEAST_FITTED_SHARE),
            removes_impulses=noise.impulses,
        )

    def with_options(
        self,
        steps: int | None = None,
        drop_rate: float | None = None,
    ) -> Recipe:
        """A copy with the user's settings.

        Args:
            steps: number of steps; None leaves it.
            drop_rate: drop rate of the input, in the fit and in the passes; in a recipe whose decoder has the same
                rate, as in the paper's, of the decoder too; None leaves all of them.

        Raises:
            UsageError: a value is out of its range.
        """
        recipe = self
        if steps is not None:
            recipe = replace(recipe, steps=steps)
        if drop_rate is not None:
            recipe = replace(recipe, input_drop_rate=drop_rate, pass_drop_rate=None)
            if self.input_drop_rate == self.decoder_drop_rate:
                recipe = replace(recipe, decoder_drop_rate=drop_rate)
        return validated(recipe)


def validated(recipe: Recipe) -> Recipe:
    """Check every value of `recipe`, and return it.

    Raises:
        UsageError: a value is out of its range; the message has the option, the value and what is expected.
    """
    minimum_steps = 1 if recipe.init == "scratch" else 0
    if recipe.steps < minimum_steps:
        raise UsageError(
            f"{typed('--steps')} is {recipe.steps}; expected at least {minimum_steps}, for example "
            f"{typed('--steps 400')}."
        )
    if quantise_keep(recipe.decoder_drop_rate) and quantise_keep(recipe.input_drop_rate) == quantise_keep(0.0):
        raise UsageError(
            f"{typed('--drop-rate')} is {recipe.input_drop_rate:g}; expected 0.01 to 0.99, because the fit learns from "
            f"the pixels that it hides. Try {typed('--drop-rate 0.4')}."
        )
    if recipe.init not in INITS:
        raise UsageError(f"recipe {recipe.name} starts from {recipe.init!r}; expected {' or '.join(INITS)}.")
    if recipe.target not in TARGETS or (recipe.target == "simulated" and recipe.init == "scratch"):
        raise UsageError(f"target is {recipe.target!r}; expected hidden, or simulated with start weights.")
    if recipe.crop is not None and (recipe.crop % SIZE_MULTIPLE or recipe.crop < MINIMUM_SIZE):
        raise UsageError(f"crop is {recipe.crop}; expected a multiple of {SIZE_MULTIPLE} from {MINIMUM_SIZE} up.")
    if recipe.orientations not in ORIENTATIONS:
        raise UsageError(f"orientations is {recipe.orientations}; expected one of {ORIENTATIONS}.")
    if not 0 < recipe.fitted_share <= 1:
        raise UsageError(f"fitted_share is {recipe.fitted_share:g}; expected more than 0, and at most 1.")
    if recipe.pass_drop_rate is not None:
        quantise_keep(recipe.pass_drop_rate)
    if len(recipe.decoder_widths) != LEVELS:
        raise UsageError(f"decoder_widths has {len(recipe.decoder_widths)} entries; expected {LEVELS}.")
    return recipe


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "fast",
            steps=150,
            input_drop_rate=0.2,
            decoder_drop_rate=0.03,
            init="natural",
            scratch_scheme="kaiming",
            loss="l2",
            learning_rate=5e-4,
            schedule="cosine",
            crop=96,
            orientations=8,
            average_decay=0.98,
            fitted_share=0.5,
            pass_drop_rate=0.1,
            expects_clipping=True,
            rounds_products=True,
            follows_noise=True,
            decoder_widths=(96, 96, 96, 64, 32),
        ),
        Recipe("paper", steps=4000, input_drop_rate=0.4, decoder_drop_rate=0.4),
        Recipe("paper-polyu", steps=5000, input_drop_rate=0.7, decoder_drop_rate=0.7),
        Recipe("paper-sidd", steps=1000, input_drop_rate=0.9, decoder_drop_rate=0.9),
    )
}


FAST_FROM_SCRATCH: dict[str, Any] = {
    "init": "scratch",
    "steps": 3000,
    "input_drop_rate": 0.3,
    "decoder_drop_rate": 0.3,
    "learning_rate": 2e-3,
    "matrix_rate": 0.01,
    "crop": 64,
    "average_decay": 0.99,
    "fitted_share": 1.0,
    "pass_drop_rate": None,
    "follows_noise": False,
}
"""Changes to ``fast`` for a start from random weights."""


def recipe_for(name: str, init: str | None = None) -> Recipe:
    """The recipe called `name`, for a fit that starts from `init`.

    Args:
        name: a key of `RECIPES`.
        init: ``"scratch"``, ``"natural"``, a run folder, or None for the recipe's own.

    Raises:
        UsageError: there is no such recipe (the message lists the known ones), or the recipe has no natural weights.
    """
    if name not in RECIPES:
        raise UsageError(f"{typed('--recipe')} is {name!r}; expected one of: {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    if init is None or init == recipe.init:
        return recipe
    if init == "natural":
        raise UsageError(
            f"{typed('--init pretrained')} has no weights for recipe {name}. Use {typed('--recipe fast')}, or "
            f"{typed('--init scratch')}."
        )
    if name == "fast" and init == "scratch":
        return validated(replace(recipe, **FAST_FROM_SCRATCH))
    return recipe


FOLLOWING_SHARE, FOLLOWING_RATE = 0.25, 0.5
"""Factors of the steps and of the learning rates where ``fast`` starts from an earlier fit with the same recipe."""


def following(recipe: Recipe, earlier: Recipe) -> Recipe:
    """The recipe for the next image of a kind, such as the next frame of a stack, from the weights of an earlier fit.

    Args:
        recipe: the recipe for an image without an earlier fit.
        earlier: recipe of the earlier fit. Where that fit followed another one, its `init` still is the `init` of the
            first fit.

    Returns:
        For ``fast``: the recipe of a fit from `earlier.init` with a quarter of the steps and half the learning rates.
        `fitted_share` stays, and now counts from the earlier weights. The paper recipes stay as they are.
    """
    if recipe.name != "fast" or earlier.name != recipe.name:
        return recipe
    alone = recipe_for(recipe.name, earlier.init)
    return replace(
        alone,
        steps=max(1, int(FOLLOWING_SHARE * alone.steps)),
        learning_rate=FOLLOWING_RATE * alone.learning_rate,
        matrix_rate=None if alone.matrix_rate is None else FOLLOWING_RATE * alone.matrix_rate,
    )
