"""Groups of options that several commands share.

A group is a dataclass in the signature of a command; --help shows an option for each field.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from self2self.cli.options import (
    AllowFallback,
    Axes,
    Batch,
    ChannelAxis,
    DropRate,
    EngineName,
    Flips,
    Init,
    Iqa,
    IqaWeightsFile,
    ManifestFile,
    Masks,
    MaskSource,
    Memory,
    Mosaic,
    Neighbours,
    NodataText,
    NoSharedDisk,
    PartText,
    Passes,
    RecipeName,
    Recursive,
    Report,
    Scheduler,
    Sigma,
    Steps,
    Strength,
    Tolerance,
    Uncertainty,
    parse_batch,
    parse_masks,
    parse_memory,
    parse_neighbours,
    parse_nodata,
    parse_passes,
)

if TYPE_CHECKING:
    from self2self.jobs import EnsembleOptions, FitOptions, OutputOptions


@dataclass(frozen=True, slots=True)
class RecipeGroup:
    """The options of a fit that `fit` and `denoise` share."""

    recipe: RecipeName = "fast"
    init: Init = None
    steps: Steps = None
    drop_rate: DropRate = None
    sigma: Sigma = None
    strength: Strength = 1.0
    iqa: Iqa = None
    iqa_weights: IqaWeightsFile = None
    nodata: NodataText = None
    mosaic: Mosaic = None
    neighbours: Neighbours = "auto"

    def options(
        self, *, seed: int, device: str, run: Path | None, page: int | None, wait: bool, fit_pages: str = "first"
    ) -> FitOptions:
        """Combine this group with the other options of a fit.

        Raises:
            UsageError: the text of an option cannot be parsed.
        """
        from self2self.jobs import FitOptions

        return FitOptions(
            recipe=self.recipe,
            init=self.init,
            steps=self.steps,
            drop_rate=self.drop_rate,
            sigma=self.sigma,
            strength=self.strength,
            iqa=self.iqa,
            iqa_weights=self.iqa_weights,
            seed=seed,
            device=device,
            run=run,
            page=page,
            fit_pages=fit_pages,
            wait=wait,
            nodata=parse_nodata(self.nodata),
            mosaic=self.mosaic,
            neighbours=parse_neighbours(self.neighbours),
        )


@dataclass(frozen=True, slots=True)
class EnsembleGroup:
    """The options of an ensemble that `denoise` and `infer` share."""

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
        """Combine this group with the other options of an ensemble.

        Raises:
            UsageError: the text of an option cannot be parsed.
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

    def outputs(self, *, output: str | None, force: bool, wait: bool) -> OutputOptions:
        """Where results go; a slash at the end of `output` means a folder."""
        from self2self.jobs import OutputOptions

        return OutputOptions(output=output, uncertainty=self.uncertainty, report=self.report, force=force, wait=wait)


@dataclass(frozen=True, slots=True)
class ManyGroup:
    """The options for many images that `denoise` and `infer` share."""

    recursive: Recursive = False
    part: PartText = None
    manifest: ManifestFile = None


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """The options for volumes."""

    axes: Axes = None
    channel_axis: ChannelAxis = None


@dataclass(frozen=True, slots=True)
class ClusterGroup:
    """The options for workers on other machines."""

    scheduler: Scheduler = None
    no_shared_disk: NoSharedDisk = False


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a command with dataclass parameters into one that Typer can read.

    The fields of the dataclass become options in place of the parameter, with the annotations, defaults and order of
    the dataclass. The command receives the dataclass, filled with the values from the command line.
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

    # Typer reads order and defaults from the signature; some versions of it read types from the annotations.
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
