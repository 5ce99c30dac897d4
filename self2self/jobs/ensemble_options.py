"""What `self2self infer` and `self2self denoise` are asked for: options of an ensemble, and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from self2self.errors import EngineUnavailableError, UsageError
from self2self.image_io import Image, check_output, default_output
from self2self.jobs.observer import Observer
from self2self.report import check_report
from self2self.report.html import check_available
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.ensemble.denoise import check_counts
from self2self.runtime.ensemble.device_loop import MASK_SOURCES, choose_mask_source
from self2self.runtime.ensemble.pass_plan import Passes, check_pass_plan


@dataclass(frozen=True, slots=True)
class EnsembleOptions:
    """Options of an ensemble.

    Attributes:
        engine: `--engine`.
        passes, tolerance, balanced, flips: how passes are drawn; None leaves it to the recipe.
        batch: passes a run; None measures and chooses.
        seed: of the masks.
        output: file, or folder when there are several images; None for beside the input.
        uncertainty: where to write the standard deviation; None for nowhere.
        force: whether existing files may be replaced.
        memory: bytes that a run may take; None for a share of what is free.
        mask_source: `--mask-source`.
        allow_fallback: whether another engine may stand in for one that does not work here.
        report: where to write the HTML report; None for nowhere.
    """

    engine: str = "auto"
    passes: Passes | None = None
    batch: int | None = None
    seed: int = 0
    output: Path | None = None
    uncertainty: Path | None = None
    force: bool = False
    tolerance: float | None = None
    balanced: bool | None = None
    flips: bool | None = None
    memory: int | None = None
    mask_source: str = "auto"
    allow_fallback: bool = False
    report: Path | None = None

    def check(self, images: list[Path]) -> None:
        """Refuse what cannot work before anything slow happens.

        Raises:
            UsageError, OutputError, EngineUnavailableError: names the option.
        """
        check_pass_plan(self.passes, self.tolerance)
        check_counts(self.batch, self.seed)
        if self.mask_source not in MASK_SOURCES:
            raise UsageError(f"--mask-source is {self.mask_source!r}; expected one of: {', '.join(MASK_SOURCES)}.")
        try:
            choose_mask_source(self.mask_source, get_engine(self.engine))
        except EngineUnavailableError:
            if not self.allow_fallback:
                raise
            get_engine("auto")
        if len(images) > 1:
            if self.output is not None and not self.output.is_dir():
                raise UsageError(
                    f"-o {self.output}: with {len(images)} images it has to be a folder that exists. "
                    f"Make it: mkdir -p {self.output}"
                )
            if self.uncertainty is not None:
                raise UsageError("--uncertainty works with one image at a time.")
            if self.report is not None:
                raise UsageError("--report works with one image at a time.")
            sources: dict[Path, Path] = {}
            for path in images:
                if path in sources.values():
                    raise UsageError(f"{path} is given twice. Give it once.")
                output = self.output_for(path)
                if (other := sources.setdefault(output.resolve(), path)) is not path:
                    # Otherwise the second would count as done when the first is.
                    raise UsageError(f"{other} and {path} would both be written to {output}. Give one at a time.")
        if self.report is not None:
            check_available(f"--report {self.report}")
            check_report(self.report, force=self.force)

    def check_for(self, image: Image) -> None:
        """Refuse an output that cannot be written, before the image is worked on.

        Raises:
            UsageError, OutputError: says which option.
        """
        output = self.output_for(image)
        if output.resolve() == image.path.resolve():
            raise UsageError(f"-o {output}: is the input itself. Choose another name.")
        check_output(output, force=self.force, like=image)
        if self.uncertainty is not None:
            if self.uncertainty.resolve() in (output.resolve(), image.path.resolve()):
                raise UsageError(f"--uncertainty {self.uncertainty}: is the image itself. Choose another name.")
            check_output(self.uncertainty, force=self.force, float_map=True, like=image)

    def skips(self, path: Path, observer: Observer) -> bool:
        """Whether the result for `path`, one of several images, is there; the user is told."""
        output = self.output_for(path)
        if self.force or not output.is_file():
            return False
        observer.note(f"{output}: exists already, so {path} is skipped. To replace it: --force")
        return True

    def output_for(self, image: Image | Path) -> Path:
        """Where the result for `image` goes; of a path, by its extension."""
        if self.output is None:
            return default_output(image)
        return self.output / default_output(image).name if self.output.is_dir() else self.output
