"""Hold the options of an ensemble in one object, which all layers pass on."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from self2self.errors import EngineUnavailableError, UsageError, typed
from self2self.machine.arguments import make_plain, real_number, switch, text, whole_number
from self2self.machine.system import check_group_at_start
from self2self.model.contract import Contract
from self2self.model.masks import check_seed
from self2self.model.plain import mirrorings_for
from self2self.runtime.engines.registry import check_engine_name, get_engine
from self2self.runtime.ensemble.device_engine import MASK_SOURCES, choose_mask_source
from self2self.runtime.ensemble.pass_plan import Passes, PassPlan, check_pass_plan, is_published_recipe, pass_plan_for


@dataclass(frozen=True, slots=True)
class EnsembleOptions:
    """Options of an ensemble; None leaves a value to the recipe of the model.

    Attributes:
        engine: a key of `registry.ENGINES`, or ``"auto"``.
        passes: number of passes, or ``"auto"``, which ends at `tolerance`.
        tolerance: standard error of the mean at which ``"auto"`` ends, in 8-bit grey levels.
        balanced: whether the passes of a block drop every element equally often (`model.masks`).
        flips: whether blocks of passes see the image in turn as it is and mirrored.
        batch: passes in one run of the engine, which do not change the result; None chooses by measured speed.
        seed: seed of the masks; the same seed gives the same image.
        memory: bytes that image, result and engine may take together; None for a share of the free memory. An image
            that needs more is cut into tiles.
        mask_source: ``"host"``, ``"device"`` or ``"auto"``. ``"auto"`` means the device if the engine can use masks
            that were made there. The two sources make different masks.
        allow_fallback: whether ``"auto"`` may replace an `engine` that does not work here.
        uncertainty: whether to keep the standard deviation over the passes, which takes as much memory as the image;
            plain models have none.
            Jobs set it themselves, by whether `OutputOptions` names a file or a report for it.
        pages: number of images of one size that the job has, such as the pages of a stack. From many pixels on, plain
            models average fewer views. Jobs set it themselves, by what they read.
        restore: whether what the passes lose of the image returns to the result: texture (`Contract.noisy_share`),
            and local means (`imaging.local_means`). None restores them, except for the paper's recipes.
    """

    engine: str = "auto"
    passes: Passes | None = None
    tolerance: float | None = None
    balanced: bool | None = None
    flips: bool | None = None
    batch: int | None = None
    seed: int = 0
    memory: int | None = None
    mask_source: str = "auto"
    allow_fallback: bool = False
    uncertainty: bool = True
    restore: bool | None = None
    pages: int = 1

    def __post_init__(self) -> None:
        # From Python come NumPy's numbers.
        make_plain(self, text, "engine", "mask_source")
        if self.passes != "auto":
            make_plain(self, whole_number, "passes")
        make_plain(self, whole_number, "batch", "seed", "memory")
        make_plain(self, real_number, "tolerance")
        make_plain(self, switch, "balanced", "flips", "restore", "allow_fallback", "uncertainty")

    def check_values(self) -> None:
        """Refuse values that are out of their range on any machine.

        Raises:
            UsageError: names the option.
        """
        check_engine_name(self.engine)
        check_pass_plan(self.passes, self.tolerance)
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"{typed('--batch')} is {self.batch}; expected at least 1, or auto.")
        check_seed(self.seed)
        if self.memory is not None and self.memory < 1:
            raise UsageError(
                f"{typed('--memory')} is {self.memory} bytes; expected more, for example {typed('--memory 2GB.')}"
            )
        if self.mask_source not in MASK_SOURCES:
            raise UsageError(
                f"{typed('--mask-source')} is {self.mask_source!r}; expected one of: {', '.join(MASK_SOURCES)}."
            )

    def check_uncertainty(self, is_wanted: bool) -> None:
        """Refuse an uncertainty map of one pass, which would say that everything is certain.

        Raises:
            UsageError: it is wanted, and there is one pass.
        """
        if is_wanted and self.passes == 1:
            raise UsageError(
                f"{typed('--uncertainty')} is the deviation between passes, and {typed('--passes', 1)} has none; "
                f"expected at least 2, for example {typed('--passes', 50)}."
            )

    def check(self) -> None:
        """Refuse options that cannot work on this machine, before the first slow step.

        Raises:
            UsageError, EngineUnavailableError: names the option.
            ResourceError: there is too little memory for an engine.
        """
        self.check_values()
        check_group_at_start(fit=False)
        try:
            choose_mask_source(self.mask_source, get_engine(self.engine))
        except EngineUnavailableError:
            if not self.allow_fallback:
                raise
            get_engine("auto")

    def pass_plan(self, recipe: str) -> PassPlan:
        """Decide how to draw passes for a model of `recipe`.

        Raises:
            UsageError: a number is out of its range, or two options exclude each other.
        """
        return pass_plan_for(recipe, self.passes, self.tolerance, self.balanced, self.flips)

    def pass_plan_for(self, contract: Contract, height: int, width: int) -> PassPlan:
        """Decide how to draw passes over an image of this size: as `pass_plan`, or one for each view of a plain model.

        Raises:
            UsageError: as for `pass_plan`; or an option needs passes with masks, which a plain model does not have.
        """
        if not contract.plain:
            return self.pass_plan(contract.recipe)
        if option := self.option_of_masks:
            raise UsageError(
                f"{option} is about passes with masks, and the model is plain, without masks. Leave it out, or use the "
                "model with masks: self2self infer RUN IMAGE"
            )
        views = len(self.mirrorings(height, width))
        return PassPlan(views, tolerance=None, balanced=False, flips=views > 1)

    @property
    def option_of_masks(self) -> str:
        """The first option that asks for passes with masks, as on the command line; empty if none does."""
        asked = {
            f"{typed('--passes', self.passes)}": isinstance(self.passes, Integral),
            typed("--tolerance"): self.tolerance is not None,
            typed("--masks"): self.balanced is not None,
        }
        return next((option for option, is_set in asked.items() if is_set), "")

    def mirrorings(self, height: int, width: int) -> tuple[int, ...]:
        """The views of images of this size whose predictions by a plain model are averaged."""
        mirrorings = mirrorings_for(self.pages * height * width)
        return mirrorings if self.flips is not False else mirrorings[:1]

    def restores(self, recipe: str) -> bool:
        """Whether what the passes lose of the image returns to the result, for a model of `recipe`."""
        return not is_published_recipe(recipe) if self.restore is None else self.restore
