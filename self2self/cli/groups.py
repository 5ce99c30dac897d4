"""Groups of options that several commands share: a dataclass in the signature, an option for each field in --help."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from self2self.cli.options import (
    AllowFallback,
    Batch,
    DropRate,
    EngineName,
    Flips,
    Init,
    Iqa,
    IqaWeightsFile,
    Masks,
    MaskSource,
    Memory,
    Passes,
    RecipeName,
    Report,
    Steps,
    Tolerance,
    Uncertainty,
    parse_batch,
    parse_masks,
    parse_memory,
    parse_output,
    parse_passes,
)

if TYPE_CHECKING:
    from self2self.jobs import EnsembleOptions, FitOptions, OutputOptions


@dataclass(frozen=True, slots=True)
class RecipeGroup:
    """What `fit` and `denoise` let choose of a fit."""

    recipe: RecipeName = "fast"
    init: Init = None
    steps: Steps = None
    drop_rate: DropRate = None
    iqa: Iqa = None
    iqa_weights: IqaWeightsFile = None

    def options(
        self, *, seed: int, device: str, run: Path | None, page: int | None, fit_pages: str = "first"
    ) -> FitOptions:
        """The options of a fit, with those that are not of this group."""
        from self2self.jobs import FitOptions

        return FitOptions(
            recipe=self.recipe,
            init=self.init,
            steps=self.steps,
            drop_rate=self.drop_rate,
            iqa=self.iqa,
            iqa_weights=self.iqa_weights,
            seed=seed,
            device=device,
            run=run,
            page=page,
            fit_pages=fit_pages,
        )


@dataclass(frozen=True, slots=True)
class EnsembleGroup:
    """What `denoise` and `infer` let choose of an ensemble."""

    engine: EngineName = "auto"
    passes: Passes = None
    tolerance: Tolerance = None
    masks: Masks = None
    flips: Flips = None
    batch: Batch = "auto"
    memory: Memory = None
    mask_source: MaskSource = "auto"
    allow_fallback: AllowFallback = False
    uncertainty: Uncertainty = None
    report: Report = None

    def options(self, *, seed: int) -> EnsembleOptions:
        """The options of an ensemble, with those that are not of this group.

        Raises:
            UsageError: a text cannot be read.
        """
        from self2self.jobs import EnsembleOptions

        return EnsembleOptions(
            engine=self.engine,
            passes=parse_passes(self.passes),
            batch=parse_batch(self.batch),
            seed=seed,
            tolerance=self.tolerance,
            balanced=parse_masks(self.masks),
            flips=self.flips,
            memory=parse_memory(self.memory),
            mask_source=self.mask_source,
            allow_fallback=self.allow_fallback,
        )

    def outputs(self, *, output: str | None, force: bool) -> OutputOptions:
        """Where results go.

        Raises:
            UsageError: a text cannot be read.
        """
        from self2self.jobs import OutputOptions

        return OutputOptions(output=parse_output(output), uncertainty=self.uncertainty, report=self.report, force=force)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command that Typer can read of one whose parameters may be dataclasses.

    In place of such a parameter stand its fields, as options of their own: annotations, defaults and order
    are those of the dataclass. The command gets the dataclass, filled with what was typed.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _options(groups[parameter.name])
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    # Typer reads the one for order and defaults, and versions of it the other for types.
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _options(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]
