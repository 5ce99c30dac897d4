"""Turn options and image into the configuration of a fit, and compare it with an earlier fit in the run folder.

The comparison decides whether a fit may be continued or used again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from self2self.errors import InputError, UsageError, typed
from self2self.image_io import ARRAY, Image
from self2self.imaging.neighbours import variance_aimed_at
from self2self.imaging.noise import Noise
from self2self.jobs.observer import Observer
from self2self.jobs.prepared_image import PreparedImage
from self2self.machine.arguments import file_path, make_plain, real_number, text, whole_number
from self2self.machine.system import check_room_for_pytorch
from self2self.model.contract import Nodata, checked_nodata
from self2self.model.masks import check_seed
from self2self.train.iqa_weights import IqaWeights, find_weights
from self2self.train.recipes import INITS, Recipe, following, recipe_for
from self2self.train.run_folder import Run, RunConfig, elsewhere
from self2self.train.start_weights import (
    LARGEST_TOLD,
    SMALLEST_TOLD,
    TRIAL_SIDE,
    has_pretrained_weights,
    predicts_an_image,
    pretrained_weights,
)

FIT_PAGES = ("first", "each")
MOST_NEIGHBOURS = 2
"""Largest number of neighbours of a page, on each side."""
LARGEST_STRENGTH = 2.0
SHAPING = (
    "recipe",
    "init",
    "steps",
    "drop_rate",
    "seed",
    "iqa",
    "iqa_weights",
    "sigma",
    "strength",
    "nodata",
    "mosaic",
)
"""Fields of `FitOptions` on which the weights of a fit depend, beside the page that it sees."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Options of a fit; None leaves a value to the recipe.

    Attributes:
        recipe: name of the recipe.
        init: origin of the first weights: ``scratch``, ``pretrained`` (or ``natural``, its older name) or a run folder.
        steps: number of optimiser steps.
        drop_rate: drop rate of the input.
        seed: seed of weights, masks and crops.
        device: ``auto``, ``cpu`` or ``cuda``.
        run: the run folder; None for the usual folder of the image.
        iqa: whether to add the paper's image quality term; None for no, or for the choice of the fit that is resumed.
        iqa_weights: file of the term's weights, which also turns the term on; None for the published weights.
        page: page of a stack, from 1; None for the first page with enough to learn from, with a note to the user.
        nodata: stored value of pixels that hold no measurement; ``"none"`` if no value stands for them; None if the
            file tells, or its values.
        mosaic: whether an image of one channel is a mosaic of colour filters; None if its values tell.
        fit_pages: how `denoise` fits to a stack: ``first`` for one fit for all pages, or ``each`` for a fit for each.
        neighbours: number of neighbours on each side that a page of a stack is fused with: 0, 1, 2, or ``auto`` for as
            many as fit (`imaging.neighbours`).
        sigma: standard deviation of the noise, in 8-bit grey levels; None to find it. It is the level that start
            weights are told, reduced by what neighbours take away.
        stored_sigma: in place of `sigma`, the standard deviation in the units of the stored values.
        strength: factor of the denoising, from 0 to 2. Below 1, a part of what was removed returns; above 1, start
            weights are told as much more noise.
        axes: a letter for each axis of a volume, as in ImageJ and OME; None if the file names them, or the shape tells.
        channel_axis: number of the axis of channels of a volume, in place of `axes`.
        wait: whether to wait while another process works in the run folder, instead of raising a `BusyError`.
    """

    recipe: str = "fast"
    init: str | None = None
    steps: int | None = None
    drop_rate: float | None = None
    seed: int = 0
    device: str = "auto"
    run: Path | None = None
    iqa: bool | None = None
    iqa_weights: Path | None = None
    page: int | None = None
    fit_pages: str = "first"
    neighbours: str | int = "auto"
    sigma: float | None = None
    strength: float = 1.0
    wait: bool = False
    nodata: Nodata = None
    mosaic: bool | None = None
    stored_sigma: float | None = None
    axes: str | None = None
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        # From Python come NumPy's numbers, and names of files as texts.
        make_plain(self, whole_number, "steps", "seed", "page", "channel_axis")
        make_plain(self, real_number, "drop_rate", "sigma", "strength")
        # Messages call both kinds sigma: a caller gives one of them.
        make_plain(self, lambda _, value: real_number("sigma", value), "stored_sigma")
        make_plain(self, text, "recipe", "init", "device", "fit_pages", "axes")
        make_plain(self, file_path, "run", "iqa_weights")
        # Texts are checked with the values.
        if not isinstance(self.neighbours, str):
            make_plain(self, whole_number, "neighbours")
        if not isinstance(self.nodata, str):
            make_plain(self, partial(real_number, expected="a finite number, 'none' or None"), "nodata")
        if self.init == "pretrained":
            # Run folders and messages have the older name.
            object.__setattr__(self, "init", "natural")

    def check(self) -> None:
        """Refuse wrong options before any file is read.

        Raises:
            UsageError: names the wrong option.
        """
        recipe_for(self.recipe, self.init).with_options(self.steps, self.drop_rate)
        check_seed(self.seed)
        if self.iqa is False and self.iqa_weights is not None:
            raise UsageError(
                f"{typed('--iqa-weights')} turns the image quality term on and {typed('--no-iqa')} off; give one of "
                "them."
            )
        if self.page is not None and self.page < 1:
            raise UsageError(f"{typed('--page')} is {self.page}; pages count from 1.")
        if self.sigma is not None and not SMALLEST_TOLD <= self.sigma <= LARGEST_TOLD:
            raise UsageError(
                f"{typed('--sigma')} is {self.sigma:g}; expected {SMALLEST_TOLD:g} to {LARGEST_TOLD:g} grey levels "
                "of 255, for "
                f"example {typed('--sigma 10')}. To remove less, use {typed('--strength')}."
            )
        if not 0 <= self.strength <= LARGEST_STRENGTH:
            raise UsageError(
                f"{typed('--strength')} is {self.strength:g}; expected 0 to {LARGEST_STRENGTH:g}, where 1 is as found."
            )
        if self.fit_pages not in FIT_PAGES:
            raise UsageError(f"{typed('--fit-pages')} is {self.fit_pages!r}; expected one of: {', '.join(FIT_PAGES)}.")
        if self.neighbours not in ("auto", *range(MOST_NEIGHBOURS + 1)):
            raise UsageError(f"{typed('--neighbours')} is {self.neighbours}; expected one of: auto, 0, 1, 2.")
        check_nodata(self.nodata)
        if self.page is not None and self.fit_pages == "each":
            raise UsageError(
                f"{typed('--page')} names the page to fit and {typed('--fit-pages each')} fits all of them; give one "
                "of them."
            )

    def refuse_axes(self, path: Path) -> None:
        """Refuse names of axes for an image whose format tells them.

        Raises:
            UsageError: they are given.
        """
        # A file that is missing is named by whoever reads it.
        if (self.axes is not None or self.channel_axis is not None) and path.exists():
            option = typed("--axes") if self.axes is not None else typed("--channel-axis")
            raise UsageError(f"{option} is for volumes (zarr, HDF5, TIFF), and {path} is none. Leave it out.")

    def in_grey_levels(self, image: Image) -> FitOptions:
        """A copy with `stored_sigma` as `sigma`, for the range of `image`, whose ends are 255 grey levels apart.

        Raises:
            UsageError: no image in this range has so little or so much noise.
        """
        if self.stored_sigma is None or (image.missing is not None and image.missing.all()):
            return replace(self, stored_sigma=None)
        unit = image.scale / 255
        least, most = SMALLEST_TOLD * unit, LARGEST_TOLD * unit
        if not least <= self.stored_sigma <= most:
            raise UsageError(
                f"sigma is {self.stored_sigma:g}; expected {least:.3g} to {most:.3g}, in the units of {image.path}, "
                f"whose values span {image.scale:.3g}. To remove less, use strength."
            )
        return replace(self, sigma=self.stored_sigma / unit, stored_sigma=None)

    @property
    def unusual(self) -> dict[str, Any]:
        """The options that shape a fit and differ from their defaults.

        The page and its neighbours are left out, because they are known by their pixels.
        """
        usual = FitOptions()
        # Up to 1, strength acts on the result alone; without the term's options, the fit that is resumed decides.
        mine = replace(self, strength=max(usual.strength, self.strength), iqa=self.wants_iqa or None)
        return {name: getattr(mine, name) for name in SHAPING if getattr(mine, name) != getattr(usual, name)}

    @property
    def wants_iqa(self) -> bool:
        """Whether the user asks for the image quality term."""
        return bool(self.iqa) or self.iqa_weights is not None


def configure(prepared: PreparedImage, options: FitOptions, observer: Observer) -> RunConfig:
    """Make the configuration of a fit to `prepared`; options of the user override the recipe.

    Raises:
        UsageError, InputError, EngineUnavailableError: an option does not work for this image or machine.
        ResourceError: this process may take less memory than PyTorch needs.
    """
    check_room_for_pytorch(prepared.pixels.nbytes)
    from self2self.train.checkpoint import tensors_sha256
    from self2self.train.fit import choose_device
    from self2self.train.session import start_weights

    options = options.in_grey_levels(prepared.image)
    recipe, start = _recipe_and_start(prepared, options, observer)
    image = prepared.image
    config = RunConfig(
        image=str(image.path if image.format == ARRAY.name else image.path.resolve()),
        image_sha256=prepared.sha256,
        channels=prepared.channels,
        recipe=recipe,
        seed=options.seed,
        start=start,
        device=str(choose_device(options.device)),
        iqa=iqa_weights(image, options, observer) if options.wants_iqa else None,
        image_range=image.range,
        whole_range=prepared.whole_range,
        sigma=options.sigma,
        strength=options.strength,
        nodata=options.nodata,
        mosaic=image.mosaic,
        neighbours=0 if options.neighbours == "auto" else int(options.neighbours),
        fused_sha256=prepared.fused_sha256,
    )
    config = _with_noise(config, prepared, options, observer)
    config = replace(config, recipe=config.recipe.with_options(options.steps, options.drop_rate))
    if start not in INITS and options.steps is None:
        observer.note(f"going on from {start} takes {config.recipe.steps} steps; {typed('--steps')} changes that.")
    weights = start_weights(config)
    return config if weights is None else replace(config, start_sha256=tensors_sha256(weights))


def _with_noise(config: RunConfig, prepared: PreparedImage, options: FitOptions, observer: Observer) -> RunConfig:
    """`config` with the noise that start weights find, and its recipe's settings for it; as it is without any.

    A fit that exists in the run folder decides, because another machine may find a slightly different noise.
    """
    recipe, channels, part = config.recipe, config.channels, prepared.measured_part(TRIAL_SIDE)
    if not recipe.follows_noise or not has_pretrained_weights(channels):
        if options.sigma is not None:
            observer.note(
                f"{typed('--sigma')} changes nothing: recipe {recipe.name} has no start weights to tell it here."
            )
        return config
    stored = run_folder(prepared, options).stored_config()
    if stored is not None and stored.noise is not None and stored.same_question(config):
        noise = stored.noise
    else:
        noise = _found_noise(prepared, recipe, options)
    if options.init is None and not predicts_an_image(pretrained_weights(channels, noise.told), part, recipe):
        observer.note(
            "the start weights make no image of this one; fitting from scratch, which takes longer "
            f"({typed('--init pretrained')} starts from them all the same)."
        )
        return replace(config, recipe=recipe_for(options.recipe, "scratch"), start="scratch")
    return replace(config, noise=noise, recipe=recipe.for_noise(noise))


def _found_noise(prepared: PreparedImage, recipe: Recipe, options: FitOptions) -> Noise:
    """The noise that start weights find, with the level that they are told in the fit."""
    from self2self.train.noise_assessment import assess_noise

    told = partial(pretrained_weights, prepared.channels)
    sigma = options.sigma
    if sigma is not None and options.neighbours != "auto":
        # The user knows the noise of a page, and the network sees what its neighbours leave of it.
        sigma = max(SMALLEST_TOLD, sigma * math.sqrt(variance_aimed_at(int(options.neighbours))))
    noise = assess_noise(prepared.center().pixels, told, recipe, sigma, prepared.grey_levels)
    return replace(noise, told=min(LARGEST_TOLD, noise.told * max(1.0, options.strength)))


def _recipe_and_start(prepared: PreparedImage, options: FitOptions, observer: Observer) -> tuple[Recipe, str]:
    """The recipe before its noise is known, and the origin of the weights: ``scratch``, ``natural`` or a run folder."""
    channels = prepared.channels
    start = options.init or recipe_for(options.recipe).init
    if start == "natural" and not has_pretrained_weights(channels):
        if options.init is not None:
            raise UsageError(
                f"{typed('--init pretrained')} has no weights for {channels} channels. Use {typed('--init scratch')}."
            )
        observer.note(f"there are no start weights for {channels} channels; fitting from scratch, which takes longer.")
        start = "scratch"
    recipe = recipe_for(options.recipe, start)
    if start in INITS:
        return recipe, start
    run = Run(Path(start))
    if not run.config_path.is_file():
        raise InputError(
            f"{typed('--init', start)} is no run folder (it has no {run.config_path.name}); expected scratch, "
            "pretrained or the folder of a fit."
        )
    earlier = run.config()
    if earlier.channels != channels:
        raise UsageError(
            f"{typed('--init', start)} was fitted on {earlier.channels} channels; the image has {channels}."
        )
    return following(recipe, earlier.recipe), str(run.folder.resolve())


def check_nodata(nodata: Nodata) -> None:
    """Refuse a value of missing pixels from Python that the command line would have refused.

    Raises:
        UsageError: it is neither a finite number nor ``"none"`` nor None.
    """
    try:
        checked_nodata(nodata)
    except ValueError:
        raise UsageError(f"nodata is {nodata!r}; expected a finite number, 'none' or None.") from None


def iqa_weights(image: Image, options: FitOptions, observer: Observer) -> IqaWeights:
    """Find the weights of the image quality term for `image`; download them if necessary.

    Raises:
        Self2SelfError: the term does not work here, or not for this image.
    """
    from self2self.train.iqa import SMALLEST_SIDE, check_usable

    channels, *sides = image.pixels.shape
    check_usable(channels)
    if min(sides) < SMALLEST_SIDE:
        observer.note(f"{image.path}: is so small that the score of the image quality term means little.")
    return find_weights(options.iqa_weights, observer.note)


def run_folder(prepared: PreparedImage, options: FitOptions) -> Run:
    """The run folder of a fit: the requested folder, or that of the image and of the options that shape the fit."""
    if options.run is not None:
        return Run(options.run)
    neighbours = 0 if options.neighbours == "auto" else int(options.neighbours)
    sha256 = prepared.fused_sha256 or prepared.sha256
    return Run.for_image(
        prepared.image.path.resolve(), sha256, neighbours, options.in_grey_levels(prepared.image).unusual
    )


def occupied_error(run: Run, asked: RunConfig) -> UsageError:
    """The error for a fit with the settings `asked` into a folder that already holds something else."""
    stored = run.stored_config()
    if not run.config_path.is_file():
        return UsageError(f"{run.folder}: is not empty and not a run folder; {elsewhere()}.")
    advice = f"start anew with {typed('--force')}, or {elsewhere()}"
    others = "other settings" if stored is None else f"other settings ({differences(stored, asked)})"
    if run.is_fitted():
        return UsageError(f"{run.folder}: holds a finished fit with {others}. Use it (self2self infer), {advice}.")
    if not run.state_path.is_file():
        return UsageError(f"{run.folder}: holds an export without its fit; {advice}.")
    return UsageError(f"{run.folder}: holds an unfinished fit with {others}; {advice}.")


def resumable(run: Run, config: RunConfig, options: FitOptions) -> RunConfig:
    """The configuration to continue `run` with; if `options` leave the image quality term open, the run decides.

    Raises:
        InputError: there is no fit to continue.
        UsageError: the folder belongs to a fit with other settings.
    """
    stored = run.config()
    if options.iqa is None and options.iqa_weights is None:
        config = replace(config, iqa=stored.iqa)
    if not config.same_fit(stored):
        raise UsageError(
            f"{run.folder}: was fitted with other settings ({differences(stored, config)}). "
            f"Give the same options to resume, or start anew with {typed('--force')}."
        )
    return replace(stored, image=config.image, device=config.device, iqa=config.iqa)


def differences(stored: RunConfig, asked: RunConfig) -> str:
    """Describe in a few words which settings of a stored fit differ from the requested ones."""
    old, new = _settings(stored), _settings(asked.beside(stored))
    changed = [f"{name} {old[name]}, asked for {new[name]}" for name in old if old[name] != new[name]]
    # A recipe of another version may differ in settings that have no option.
    return "; ".join(changed) or "its recipe is of another version"


def _range(config: RunConfig) -> str:
    if config.whole_range:
        return "from black to white"
    return "its own" if config.image_range is None else "{:g} to {:g}".format(*config.image_range)


def _settings(config: RunConfig) -> dict[str, str]:
    recipe = config.recipe
    return {
        "image": config.image_sha256[:8],
        "range": _range(config),
        "nodata": str(config.nodata),
        "mosaic": str(config.mosaic),
        "neighbours": str(config.neighbours),
        "fused page": config.fused_sha256[:8] or "none",
        "recipe": recipe.name,
        "steps": str(recipe.steps),
        "drop rate": f"{recipe.input_drop_rate:g}",
        "sigma": "found" if config.sigma is None else f"{config.sigma:g}",
        "strength": f"{config.strength:g}",
        "init": f"{config.init} ({config.start_sha256[:8]})" if config.start_sha256 else config.init,
        "seed": str(config.seed),
        "image quality term": config.iqa.sha256[:8] if config.iqa else "off",
    }
