"""Recipes: every figure of a fit in one immutable object.

The ``paper`` recipes are those of the official Self2Self+ code (arXiv 2307.10695), one for each
data set that it reports; ``fast`` is ours, and dev/log tells how it was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from self2self.errors import UsageError
from self2self.imaging.noise import Noise
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
    "camera": False,
    "target": "hidden",
    "expects_clipping": False,
    "rounds_products": False,
    "noisy_share": 0.0,
    "even_noise": False,
}
"""Fields that runs of earlier versions do not have, and what those versions did."""


class Choice(NamedTuple):
    """What ``fast`` takes for the noise of an image.

    Attributes:
        fit_drop_rate: of the input in the fit, which learns from the pixels that are hidden.
        pass_drop_rate: in the passes, which do without them: the weaker the noise, the more is lost.
        fitted_share: of the fitted weights in those for inference: the stronger the noise, the more of it they learn.
    """

    fit_drop_rate: float
    pass_drop_rate: float
    fitted_share: float


BY_SIGMA = (
    (12.0, Choice(0.1, 0.02, 0.5)),
    (17.0, Choice(0.1, 0.1, 0.5)),
    (35.0, Choice(0.2, 0.1, 0.5)),
    (math.inf, Choice(0.2, 0.2, 0.3)),
)
"""Standard deviation of the noise up to which a row holds, in 8-bit grey levels, and the choice; found on images that
nothing is reported on (dev/log), as is the next."""
FOR_CORRELATED = Choice(0.5, 0.4, 1.0)
"""Where neighbours share their noise: what is seen of a pixel's surroundings tells less of it when more is hidden."""
FOR_LITTLE = Choice(0.05, 0.02, 1.0)
"""Where neighbours share so little of their noise that a network can tell, though a fit would learn it, and where
hiding more takes more than noise away (`start_weights.adapt_recipe`)."""
FOR_SIGNAL_DEPENDENT = Choice(0.2, 0.2, 0.9)
"""Where the noise of a grey image depends on the signal: its level in flat parts, mostly dark, tells little of it. The
start weights make images of few photons too dark, so little of them is kept."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fit a network to one image.

    Attributes:
        name: what `--recipe` calls it.
        steps: optimiser updates; 0 takes the weights of the start as they are.
        input_drop_rate: probability that a pixel value is hidden from the network.
        decoder_drop_rate: probability that a decoder activation is dropped.
        init: ``"scratch"`` (nothing but the image) or ``"natural"`` (weights that ship with the
            package and have seen photographs).
        camera: start from those of the latter that know better what a camera, or a microscope, makes of an image,
            where there are any.
        target: what a step is to find: values of the image that are ``"hidden"`` from it, or what the start weights
            make of the image, from that with noise ``"simulated"`` after the image's own (`train.rehearsal`).
        expects_clipping: where noise is cut off at black or white, compare hidden values with what a prediction is on
            average after the same cut (`train.clipping`).
        rounds_products: compute steps in bfloat16 on CPUs that multiply matrices of it (`train.lean`), as PyTorch takes
            TF32 on a GPU; weights and gradients stay float32.
        scratch_scheme: how `network.initialise` draws weights for ``"scratch"``.
        loss: ``"l1"`` or ``"l2"``, over the values that a step is to find.
        learning_rate: peak rate of Adam.
        betas: Adam's decay rates.
        matrix_rate: peak rate of Muon, which then takes Adam's place for most weights (`train.muon`); None
            for Adam alone.
        schedule: ``"constant"`` or ``"cosine"`` (to zero at the last step).
        crop: side of the random square that a step sees, in pixels; None for the whole image.
        orientations: in which a step may see it, drawn anew each step: 1 (as it is), 4 (mirrored) or 8
            (also transposed, where it is a square).
        average_decay: decay per step of the exponential weight average; None for none.
        fitted_share: how far the weights for inference go from those that the fit started from to the fitted
            ones; 1 for all the way. Has no meaning for a start from random weights.
        pass_drop_rate: probability that a pass of the ensemble hides a pixel value; None for that of the fit.
        noisy_share: of the noisy image in the result, where texture was taken for noise (`start_weights.adapt_recipe`).
        even_noise: whether the noise is as strong at every brightness, though it does not look like it, because bright
            parts have more texture (`start_weights.adapt_recipe`).
        quality_weight: factor of the no-reference quality term, where `fit` is given one.
        encoder_width: channels of every encoder level.
        decoder_widths: channels of the decoder levels, coarsest first.
    """

    name: str
    steps: int
    input_drop_rate: float
    decoder_drop_rate: float
    init: str = "scratch"
    camera: bool = False
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
    noisy_share: float = 0.0
    even_noise: bool = False
    quality_weight: float = 2e-8
    encoder_width: int = 48
    decoder_widths: tuple[int, ...] = (96, 96, 96, 96, 96)

    def masks(self, channels: int) -> tuple[MaskSpec, ...]:
        """All masks of a training step for images of `channels` channels."""
        return mask_specs(
            channels, self.encoder_width, self.decoder_widths, self.input_drop_rate, self.decoder_drop_rate
        )

    def pass_masks(self, channels: int) -> tuple[MaskSpec, ...]:
        """All masks of a pass of the ensemble: those of a step, but for the share of pixels that are hidden."""
        return mask_specs(
            channels, self.encoder_width, self.decoder_widths, self.rate_of_passes, self.decoder_drop_rate
        )

    @property
    def rate_of_passes(self) -> float:
        """Probability that a pass of the ensemble hides a pixel value."""
        return self.input_drop_rate if self.pass_drop_rate is None else self.pass_drop_rate

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote.

        Raises:
            TypeError, ValueError: fields are missing, unknown or wrong.
        """
        known = {field.name for field in fields(cls)}
        values = LATER_FIELDS | dict(values)
        if set(values) != known:
            raise ValueError(f"recipe fields {sorted(set(values) ^ known)}")
        # JSON has no tuples.
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return validated(cls(**plain))

    def for_noise(self, noise: Noise) -> Recipe:
        """A copy that suits `noise`; itself where it has no such choice.

        Only a recipe that hides another share in the passes than in the fit has one. It goes by the level of the
        noise (`BY_SIGMA`), and never takes more of the fitted weights than before. Where neighbours share their
        noise, a fit predicts it from them, so the steps learn from simulated noise instead, from weights that know
        such noise best (dev/log). Those for grey know micrographs best, too, and with them noise that
        depends on the signal.
        """
        if self.pass_drop_rate is None:
            return self
        grey_of_photons = noise.signal_dependent and len(noise.sigma_by_channel) == 1
        if noise.correlated or grey_of_photons:
            choice = FOR_CORRELATED if noise.correlated else FOR_SIGNAL_DEPENDENT
            share = choice.fitted_share
        else:
            choice = next(row for largest, row in BY_SIGMA if not noise.sigma > largest)
            share = min(self.fitted_share, choice.fitted_share)
        return replace(
            self,
            camera=noise.correlated or grey_of_photons,
            target="simulated" if noise.correlated else "hidden",
            input_drop_rate=choice.fit_drop_rate,
            pass_drop_rate=choice.pass_drop_rate,
            fitted_share=share,
        )

    def apply_assessment(self, noise: Noise) -> Noise:
        """`noise` as a trial has found it to be, whatever was measured."""
        if self.even_noise:
            return replace(noise, signal_dependent=False)
        # Noise that neighbours share is learnt by simulating it.
        return replace(noise, signal_dependent=True) if self.camera and self.target == "hidden" else noise

    def for_little_correlation(self, noisy_share: float = 0.0) -> Recipe:
        """A copy for noise of which neighbours share a little, or of which `noisy_share` is the image's texture."""
        return replace(
            self,
            camera=True,
            target="simulated",
            input_drop_rate=FOR_LITTLE.fit_drop_rate,
            pass_drop_rate=FOR_LITTLE.pass_drop_rate,
            fitted_share=FOR_LITTLE.fitted_share,
            noisy_share=noisy_share,
        )

    def with_options(
        self,
        steps: int | None = None,
        drop_rate: float | None = None,
    ) -> Recipe:
        """A copy with what the user chose; `drop_rate` sets the input's, and in paper recipes both.

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
    """`recipe` itself, when every value is in its range.

    Raises:
        UsageError: names the option, what was got, and what is expected.
    """
    least = 1 if recipe.init == "scratch" else 0
    if recipe.steps < least:
        raise UsageError(f"--steps is {recipe.steps}; expected at least {least}, for example --steps 400.")
    if quantise_keep(recipe.decoder_drop_rate) and quantise_keep(recipe.input_drop_rate) == quantise_keep(0.0):
        raise UsageError(
            f"--drop-rate is {recipe.input_drop_rate:g}; expected 0.01 to 0.99, because the fit learns from "
            "the pixels that it hides. Try --drop-rate 0.4."
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
    if not 0 <= recipe.noisy_share < 1:
        raise UsageError(f"noisy_share is {recipe.noisy_share:g}; expected from 0 up to less than 1.")
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
}
"""What ``fast`` changes when nothing but the image may be seen."""


def recipe_for(name: str, init: str | None = None) -> Recipe:
    """The recipe called `name`, for weights that start from `init`.

    Args:
        name: a key of `RECIPES`.
        init: ``"scratch"``, ``"natural"``, a run folder, or None for the recipe's own.

    Raises:
        UsageError: there is no such recipe; the message lists those that are there.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe is {name!r}; expected one of: {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    if init is None or init == recipe.init:
        return recipe
    if init == "natural":
        raise UsageError(f"--init natural has no weights for recipe {name}. Use --recipe fast, or --init scratch.")
    if name == "fast" and init == "scratch":
        return validated(replace(recipe, **FAST_FROM_SCRATCH))
    return recipe


FOLLOWING_SHARE, FOLLOWING_RATE = 0.25, 0.5
"""Where ``fast`` starts from an earlier fit with the same recipe: shares of the steps and of the learning rates."""


def following(recipe: Recipe, earlier: Recipe) -> Recipe:
    """How to fit the next image of a kind, such as the next frame of a stack, from the weights of an earlier fit.

    Args:
        recipe: for an image that stands alone.
        earlier: of the fit to start from; where that one followed another fit, too, its `init` still
            is that of the first.

    Returns:
        For ``fast``: a quarter of the steps that a fit from `earlier.init` takes, at half the rates; as much of the
        earlier weights is kept as there of the start weights. The paper recipes take all their steps from any weights.
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
