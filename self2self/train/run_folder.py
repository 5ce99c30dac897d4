"""Reads and writes the run folder: the results of a fit, and everything that continuing it needs.

==========================  ======================================================================
``config.json``             image, recipe, seed and device of the fit
``model.safetensors``       weights for inference; its header repeats recipe and contract
``state.safetensors``       weights, averages, start, Adam's moments and the step, to continue from;
                            removed when the fit is finished
``history.jsonl``           one line for each report of the fit
``preview.png``             the middle of the result so far
``model.onnx``              written by the export
``plain.safetensors``       weights for a single pass without masks, once they are calibrated
``model.plain.onnx``        their export
==========================  ======================================================================

No random state is saved: random numbers are functions of (seed, step). Every file but the history
is written under a temporary name and renamed, so a killed process leaves the previous version. The
history is appended to. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from self2self.errors import FileFormatError, InputError, UsageError, typed, writing
from self2self.imaging.neighbours import variance_aimed_at
from self2self.imaging.noise import Noise
from self2self.machine.cache_folder import cache_folder
from self2self.machine.files import atomic_write, cut, holds_only_leftovers, is_temporary, remove_leftovers
from self2self.machine.locks import folder_lock, use_of
from self2self.model.contract import (
    PRECISIONS,
    Contract,
    Nodata,
    checked_count,
    checked_flag,
    checked_nodata,
    checked_range,
)
from self2self.train.iqa_weights import IqaWeights
from self2self.train.recipes import Recipe

LONGEST_STEM, LONGEST_SHOWN = 120, 40
"""Most bytes of a folder's name that tell the image, and the options of a fit: file systems take 255 in all."""
LOCAL_RUNS = Path("runs")
"""Folder in the working directory in which earlier versions kept the runs that nobody named; they are still found."""
CONFIG, MODEL, STATE, HISTORY = "config.json", "model.safetensors", "state.safetensors", "history.jsonl"
PREVIEW, ONNX_MODEL, PLAIN = "preview.png", "model.onnx", "plain.safetensors"
PACKAGE_SUFFIXES = {"dtmodel": ".dtmodel", "bioimageio": ".bioimageio.zip"}
"""Suffixes of plain models that are packed for other programs, by format (`export --format`)."""
RUN_FORMAT = 1
"""Version of `config.json`."""


def elsewhere() -> str:
    """Advice for messages about a folder that cannot be used."""
    return f"choose another run folder ({typed('--run RUN')})"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The settings of a fit, as its run folder keeps them.

    Attributes:
        image: absolute path of the noisy image; the name of an array, which is no file.
        image_sha256: `image_io.image_hash` of the image.
        channels: number of colour channels.
        recipe: the recipe, with the user's changes applied.
        seed: seed of weights, masks and crops.
        start: source of the start weights: ``"scratch"``, ``"natural"`` or a run folder.
        device: device of the fit.
        iqa: weights of the image quality term; None for a fit without it.
        start_sha256: `checkpoint.tensors_sha256` of the start weights; None for random ones, and for fits of earlier
            versions, which did not record it.
        image_range: the stored values of the image that are 0 and 1 to the network; None for fits of earlier versions,
            which did not record it.
        whole_range: whether `image_range` is black and white, as it always was in those versions.
        noise: the noise that the fit was chosen for; None where it was not assessed.
        sigma: the noise level that the user gave, in 8-bit grey levels; None if it was found.
        strength: factor of the denoising that the user gave.
        nodata: as `Contract.nodata`.
        mosaic: as `Contract.mosaic`.
        neighbours: as `Contract.neighbours`.
        fused_sha256: SHA-256 of the page that was fused with its neighbours, in hex; empty without them.
    """

    image: str
    image_sha256: str
    channels: int
    recipe: Recipe
    seed: int
    start: str
    device: str
    iqa: IqaWeights | None = None
    start_sha256: str | None = None
    image_range: tuple[float, float] | None = None
    whole_range: bool = True
    noise: Noise | None = None
    sigma: float | None = None
    strength: float = 1.0
    nodata: Nodata = None
    mosaic: bool = False
    neighbours: int = 0
    fused_sha256: str = ""

    def contract(self, steps: int) -> Contract:
        """The contract of a model after `steps` steps."""
        return Contract(
            channels=self.channels,
            masks=self.recipe.pass_masks(self.channels),
            recipe=self.recipe.name,
            seed=self.seed,
            steps=steps,
            image_sha256=self.image_sha256,
            image_range=self.image_range,
            whole_range=self.whole_range,
            nodata=self.nodata,
            mosaic=self.mosaic,
            neighbours=self.neighbours,
            noisy_share=self.noisy_share,
            removes_impulses=self.recipe.removes_impulses,
        )

    @property
    def init(self) -> str:
        """`start` as ``--init`` has it: ``"pretrained"`` for ``"natural"``, which is its older name."""
        return "pretrained" if self.start == "natural" else self.start

    @property
    def page_noise(self) -> Noise | None:
        """`noise` of a page as it is in the stack: it was found in a page that is fused with its neighbours."""
        if self.noise is None or not self.neighbours:
            return self.noise
        factor = variance_aimed_at(self.neighbours) ** -0.5
        noise = self.noise
        return replace(
            noise, sigma=factor * noise.sigma, told=factor * noise.told, independent=factor * noise.independent
        )

    @property
    def noisy_share(self) -> float:
        """Share of the difference between image and prediction that stays in the result."""
        removed_share = 1.0 if self.noise is None else self.noise.removed_share
        return 1 - min(1.0, self.strength) * removed_share

    def same_fit(self, other: RunConfig) -> bool:
        """Whether continuing a fit with the settings `other` gives the same weights as a new fit with these settings.

        Where it does, all that may differ is how much of the noisy image stays in the result (`noisy_share`).
        """
        same_place = replace(self.beside(other), image=other.image, device=other.device, strength=other.strength)
        return same_place == other and self._told_strength == other._told_strength

    def same_question(self, other: RunConfig) -> bool:
        """Whether the noise of `other` is to be found in the same values and with the same options."""
        questions = [
            (config.image_sha256, config.fused_sha256, config.whole_range, config.sigma, config._told_strength)
            for config in (self, other)
        ]
        return questions[0] == questions[1]

    @property
    def _told_strength(self) -> float:
        """The part of `strength` that a fit sees: up to 1, it acts on the result alone."""
        return max(1.0, self.strength)

    def beside(self, other: RunConfig) -> RunConfig:
        """A copy to compare with `other`: without the fields that an earlier version did not record in `other`."""
        return replace(
            self,
            start_sha256=self.start_sha256 if other.start_sha256 else None,
            # Versions that did not record the range used the whole one, which `whole_range` still compares.
            image_range=self.image_range if other.image_range else None,
        )


def cached_runs() -> Path:
    """Folder of the runs that nobody named; it need not exist."""
    return cache_folder() / "runs"


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder on disk; creating the object does not touch the disk."""

    folder: Path

    @classmethod
    def for_image(
        cls, image: Path, sha256: str, neighbours: int = 0, options: Mapping[str, object] | None = None
    ) -> Run:
        """The default folder for a fit of `image`: in `LOCAL_RUNS` if there is one, else in the cache folder.

        Fits with other options have folders of their own, so that one of them does not stand in the way of another. The
        name shows these options to people; a digest keeps apart what looks alike.

        Args:
            image: its path.
            sha256: of what the fit sees: the image, or a page that is fused with its neighbours.
            neighbours: as `Contract.neighbours`.
            options: the options that shape the fit and are not the default ones; their values can be told by `str`.
        """
        stem = cut(re.sub(r"[^\w.-]+", "_", image.stem), LONGEST_STEM) or "image"
        name = f"{stem}-{sha256[:8]}" + (f"-neighbours-{neighbours}" if neighbours else "")
        if options:
            told = json.dumps(options, sort_keys=True, default=str)
            name += f"-{_shown(options)}-{hashlib.sha256(told.encode()).hexdigest()[:6]}"
        return cls((LOCAL_RUNS if (LOCAL_RUNS / name).is_dir() else cached_runs()) / name)

    @classmethod
    def latest(cls, *roots: Path) -> Run:
        """The run that was used last of those in `roots`; by default in the cache folder and in `LOCAL_RUNS`.

        Raises:
            InputError: there is no run.
        """
        places = roots or (cached_runs(), LOCAL_RUNS)
        runs = [cls(config.parent) for root in places for config in root.glob(f"*/{CONFIG}")]
        if not runs:
            raise InputError(f"{places[0]}: holds no run yet. Fit an image first: self2self fit IMAGE")
        return max(runs, key=cls.last_use)

    @property
    def config_path(self) -> Path:
        """Path of the settings."""
        return self.folder / CONFIG

    @property
    def model_path(self) -> Path:
        """Path of the weights for inference; the file exists once the fit is finished."""
        return self.folder / MODEL

    @property
    def state_path(self) -> Path:
        """Path of the state to continue from."""
        return self.folder / STATE

    @property
    def history_path(self) -> Path:
        """Path of the history, one JSON object a line."""
        return self.folder / HISTORY

    @property
    def preview_path(self) -> Path:
        """Path of the preview."""
        return self.folder / PREVIEW

    @property
    def onnx_path(self) -> Path:
        """Path of the exported model."""
        return self.folder / ONNX_MODEL

    def onnx_path_for(self, precision: str) -> Path:
        """Path of the exported model that computes in `precision`: ``model.fp16.onnx``, or `onnx_path` for fp32."""
        if precision == "fp32":
            return self.onnx_path
        return self.onnx_path.with_suffix(f".{precision}.onnx")

    @property
    def plain_path(self) -> Path:
        """Path of the weights for a single pass without masks (`train.single_pass`)."""
        return self.folder / PLAIN

    def plain_onnx_path_for(self, precision: str) -> Path:
        """Path of the plain model in `precision`: ``model.plain.onnx``, or ``model.plain.fp16.onnx``."""
        return self.onnx_path.with_suffix(".plain.onnx" if precision == "fp32" else f".plain.{precision}.onnx")

    def package_path_for(self, file_format: str) -> Path:
        """Path of the plain model as a package in a format of `PACKAGE_SUFFIXES`, named after the folder."""
        return self.folder / (self.package_name + PACKAGE_SUFFIXES[file_format])

    @property
    def package_name(self) -> str:
        """Name of the model in packages: that of the folder in small letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.folder.resolve().name.lower()).strip("-")

    def last_use(self) -> float:
        """When the run was written or used last, in seconds since 1970; 0 for an empty or missing folder."""
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Record a use of the run, which until the end of the block keeps other processes from removing it.

        Any number of processes may use a run at once. Where the folder is no run or cannot be written, nothing is
        recorded.
        """
        with suppress(OSError):
            os.utime(self.config_path)
        with use_of(self.config_path):
            yield

    def foreign_files(self) -> list[str]:
        """Names of what lies in the folder and is no part of a run, sorted; of a folder that is no run, all of them."""
        if self.stored_config() is None:
            return sorted(path.name for path in self.folder.iterdir())
        paths = (self.config_path, self.model_path, self.state_path, self.history_path, self.preview_path)
        exports = (path_for(p) for path_for in (self.onnx_path_for, self.plain_onnx_path_for) for p in PRECISIONS)
        known = {path.name for path in (*paths, self.plain_path, *exports)} | {"engines", "pages"}
        packages = tuple(PACKAGE_SUFFIXES.values())
        others = (path for path in self.folder.iterdir() if path.name not in known and not path.name.endswith(packages))
        return sorted(path.name for path in others if not is_temporary(path))

    def is_fitted(self) -> bool:
        """Whether the fit is finished."""
        return self.config_path.is_file() and self.model_path.is_file()

    def is_unbegun(self) -> bool:
        """Whether a fit ended before its first checkpoint, so that a new start loses nothing."""
        kept = (self.model_path, self.state_path, *map(self.onnx_path_for, PRECISIONS))
        return self.config_path.is_file() and not any(path.is_file() for path in kept)

    def is_vacant(self) -> bool:
        """Whether a fit can begin here without a loss: no folder, an empty one, or what a kill left of a beginning."""
        return not self.folder.exists() or holds_only_leftovers(self.folder) or self.is_unbegun()

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Lock the folder against fits by other commands; it is made if needed, and the lock ends with the process.

        Two fits at once could leave the settings of one with the weights of the other. What killed processes have left
        in the folder is removed.

        Args:
            wait: whether to wait while another command is fitting into the folder.

        Raises:
            BusyError: another command is fitting into the folder, and `wait` is off.
            UsageError: `folder` is a file.
            OutputError, ResourceError: the folder cannot be made.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder}: is not a folder; {elsewhere()}.")
        with writing(self.folder, elsewhere()):
            self.folder.mkdir(parents=True, exist_ok=True)
        with folder_lock(self.folder, wait=wait, instead=elsewhere()):
            remove_leftovers(self.folder)
            yield

    def create(self, config: RunConfig) -> None:
        """Make the folder and its `config.json`.

        Raises:
            OutputError, ResourceError: one of them cannot be written.
        """
        with writing(self.folder, elsewhere()):
            self.folder.mkdir(parents=True, exist_ok=True)
        values = {
            "format": RUN_FORMAT,
            "image": config.image,
            "image_sha256": config.image_sha256,
            "channels": config.channels,
            "recipe": config.recipe.to_json(),
            "seed": config.seed,
            "start": config.start,
            "device": config.device,
            "iqa": None if config.iqa is None else asdict(config.iqa),
            "start_sha256": config.start_sha256,
            "image_range": config.image_range,
            "whole_range": config.whole_range,
            "noise": None if config.noise is None else config.noise.to_json(),
            "sigma": config.sigma,
            "strength": config.strength,
            "nodata": config.nodata,
            "mosaic": config.mosaic,
            "neighbours": config.neighbours,
            "fused_sha256": config.fused_sha256,
        }
        atomic_write(self.config_path, (json.dumps(values, indent=2) + "\n").encode(), elsewhere())

    def clear(self) -> None:
        """Remove the files of an earlier fit from the folder, all but `config.json`, and no other file."""
        _remove(self.model_path, self.state_path, self.history_path, self.preview_path, self.plain_path)
        self.clear_exports()

    def clear_plain(self) -> None:
        """Remove the weights for a single pass and their exports, which belong to an earlier state of the fit."""
        _remove(self.plain_path, *map(self.plain_onnx_path_for, PRECISIONS))

    def clear_exports(self) -> None:
        """Remove all exported models."""
        _remove(*map(self.onnx_path_for, PRECISIONS), *map(self.plain_onnx_path_for, PRECISIONS))

    def drop_state(self) -> None:
        """Remove the state to continue from, most of the folder's bytes: a finished fit has nothing to continue."""
        _remove(self.state_path)

    def config(self) -> RunConfig:
        """Read `config.json`.

        Raises:
            InputError: the folder is not a run folder, or cannot be read.
            FileFormatError: the file is damaged or of another version.
        """
        try:
            text = self.config_path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{self.folder}: is not a run folder (it has no {CONFIG}). Fit first: self2self fit IMAGE"
            ) from error
        except OSError as error:
            raise InputError(f"{self.config_path}: cannot be read ({error.strerror}). Choose another run.") from error
        try:
            values = json.loads(text)
            if values["format"] != RUN_FORMAT:
                raise FileFormatError(
                    f"{self.config_path}: has run format {values['format']}; expected {RUN_FORMAT}. "
                    f"Fit again with {typed('--force')}."
                )
            return RunConfig(
                image=str(values["image"]),
                image_sha256=str(values["image_sha256"]),
                channels=int(values["channels"]),
                recipe=Recipe.from_json(values["recipe"]),
                seed=int(values["seed"]),
                start=str(values["start"]),
                device=str(values["device"]),
                # Runs of earlier versions have no such entries.
                iqa=IqaWeights(**values["iqa"]) if values.get("iqa") else None,
                start_sha256=str(values["start_sha256"]) if values.get("start_sha256") else None,
                image_range=checked_range(values.get("image_range")),
                whole_range=checked_flag(values.get("whole_range", True)),
                noise=Noise.from_json(values["noise"]) if values.get("noise") else None,
                sigma=None if values.get("sigma") is None else float(values["sigma"]),
                strength=float(values.get("strength", 1.0)),
                nodata=checked_nodata(values.get("nodata")),
                mosaic=checked_flag(values.get("mosaic", False)),
                neighbours=checked_count(values.get("neighbours", 0)),
                fused_sha256=str(values.get("fused_sha256", "")),
            )
        except (ValueError, KeyError, TypeError, UsageError) as error:
            raise FileFormatError(
                f"{self.config_path}: is damaged ({type(error).__name__}: {error}). Fit again with {typed('--force')}."
            ) from error

    def stored_config(self) -> RunConfig | None:
        """The configuration of the fit in the folder; None if there is none, or it cannot be read."""
        try:
            return self.config()
        except (InputError, FileFormatError):
            return None


def _remove(*paths: Path) -> None:
    for path in paths:
        with writing(path, elsewhere()):
            path.unlink(missing_ok=True)


class History:
    """`history.jsonl`: one JSON object a line, appended during the fit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def restart(self, step: int) -> None:
        """Remove the entries after `step`, so that a continued fit repeats none."""
        kept = [json.dumps(entry) for entry in self.read() if entry.get("step", 0) <= step]
        atomic_write(self.path, "".join(line + "\n" for line in kept).encode(), elsewhere())

    def append(self, entry: Mapping[str, Any]) -> None:
        """Append one line.

        Raises:
            OutputError, ResourceError: the file cannot be written.
        """
        with writing(self.path, elsewhere()), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All complete entries; a line that a killed process cut off is skipped."""
        if not self.path.is_file():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries


def _shown(options: Mapping[str, object]) -> str:
    """Options and their values as a part of a folder's name, such as ``sigma-10-steps-50``, cut where it is long."""
    words = [
        f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}"
        for name, value in sorted(options.items())
    ]
    return cut(re.sub(r"[^\w.]+", "-", "-".join(words)), LONGEST_SHOWN).strip("-.")
