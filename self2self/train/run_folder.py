"""The run folder: everything that a fit leaves behind, and that continuing it needs.

==========================  ======================================================================
``config.json``             image, recipe, seed and device of the fit
``model.safetensors``       weights for inference; its header repeats recipe and contract
``state.safetensors``       weights, averages, start, Adam's moments and the step, to continue from
``history.jsonl``           one line for each report of the fit
``preview.png``             how the result looks so far
``model.onnx``              written by the export
==========================  ======================================================================

Random numbers need no saving: they are functions of (seed, step). Every file is written to a
temporary name and renamed, so a killed process leaves the previous version. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from self2self.errors import FileFormatError, InputError, UsageError, writing
from self2self.machine.files import atomic_write
from self2self.model.contract import PRECISIONS, Contract, checked_flag, checked_range
from self2self.train.iqa_weights import IqaWeights
from self2self.train.recipes import Recipe

RUNS = Path("runs")
CONFIG, MODEL, STATE, HISTORY = "config.json", "model.safetensors", "state.safetensors", "history.jsonl"
PREVIEW, ONNX_MODEL = "preview.png", "model.onnx"
RUN_FORMAT = 1
ELSEWHERE = "choose another run folder (fit -o RUN, denoise --run RUN)"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a run folder says about its fit.

    Attributes:
        image: absolute path of the noisy image.
        image_sha256: `image_io.image_hash` of it.
        channels: colour channels.
        recipe: with the user's changes applied.
        seed: of weights, masks and crops.
        start: where the first weights came from: ``"scratch"``, ``"natural"`` or a run folder.
        device: where it was fitted.
        iqa: weights of the image quality term; None for a fit without it.
        start_sha256: `checkpoint.tensors_sha256` of the first weights; None for random ones, and for fits of versions
            that did not note it.
        image_range: the stored values of the image that were 0 and 1 to the network; None for fits of versions that
            did not note it.
        whole_range: whether those are black and white, as in those versions.
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
            noisy_share=self.recipe.noisy_share,
            even_noise=self.recipe.even_noise,
        )

    def same_fit(self, other: RunConfig) -> bool:
        """Whether continuing from `other` gives what starting this anew would give."""
        return replace(self.beside(other), image=other.image, device=other.device) == other

    def beside(self, other: RunConfig) -> RunConfig:
        """The same without what `other`, of an earlier version, does not tell about itself."""
        return replace(
            self,
            start_sha256=self.start_sha256 if other.start_sha256 else None,
            # That of versions that did not note it was the whole one.
            image_range=self.image_range if other.image_range else None,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder on disk; making the object touches nothing."""

    folder: Path

    @classmethod
    def for_image(cls, image: Path, image_sha256: str, root: Path = RUNS) -> Run:
        """The folder that a fit of `image` uses unless it is told another."""
        stem = re.sub(r"[^\w.-]+", "_", image.stem) or "image"
        return cls(root / f"{stem}-{image_sha256[:8]}")

    @classmethod
    def latest(cls, root: Path = RUNS) -> Run:
        """The run that was fitted or exported last.

        Raises:
            InputError: there is none.
        """
        configs = list(root.glob(f"*/{CONFIG}"))
        if not configs:
            raise InputError(f"{root}/ holds no run yet. Fit an image first: self2self fit IMAGE")

        def touched(config: Path) -> float:
            return max(p.stat().st_mtime for p in config.parent.iterdir() if p.is_file())

        return cls(max(configs, key=touched).parent)

    @property
    def config_path(self) -> Path:
        """Settings of the fit."""
        return self.folder / CONFIG

    @property
    def model_path(self) -> Path:
        """Weights for inference; there once the fit is finished."""
        return self.folder / MODEL

    @property
    def state_path(self) -> Path:
        """What continuing needs."""
        return self.folder / STATE

    @property
    def history_path(self) -> Path:
        """One JSON object a line."""
        return self.folder / HISTORY

    @property
    def preview_path(self) -> Path:
        """How the result looks so far."""
        return self.folder / PREVIEW

    @property
    def onnx_path(self) -> Path:
        """The exported model."""
        return self.folder / ONNX_MODEL

    def onnx_path_for(self, precision: str) -> Path:
        """The exported model that computes in `precision`: ``model.fp16.onnx``, or `onnx_path` for fp32."""
        if precision == "fp32":
            return self.onnx_path
        return self.onnx_path.with_suffix(f".{precision}.onnx")

    def is_fitted(self) -> bool:
        """Whether the fit came to its end."""
        return self.config_path.is_file() and self.model_path.is_file()

    def is_unbegun(self) -> bool:
        """Whether a fit ended before its first checkpoint, so that starting anew loses nothing."""
        kept = (self.model_path, self.state_path, *map(self.onnx_path_for, PRECISIONS))
        return self.config_path.is_file() and not any(path.is_file() for path in kept)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from fitting into the folder, which is made if need be; ends with the process.

        Two fits at once could leave the settings of one beside the weights of the other. Where the
        system or the file system knows no locks, nothing is kept.

        Raises:
            UsageError: another command is fitting there.
            OutputError, ResourceError: the folder cannot be made.
        """
        with writing(self.folder, ELSEWHERE):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:
            yield
            return
        # The folder itself, so that no file is left in it.
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{self.folder}: another command is fitting there. Wait until it ends, or {ELSEWHERE}."
                ) from None
            except OSError:
                pass
            yield
        finally:
            os.close(handle)

    def create(self, config: RunConfig) -> None:
        """Make the folder and its `config.json`.

        Raises:
            OutputError, ResourceError: it cannot be written.
        """
        with writing(self.folder, ELSEWHERE):
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
        }
        atomic_write(self.config_path, (json.dumps(values, indent=2) + "\n").encode(), ELSEWHERE)

    def clear(self) -> None:
        """Remove what an earlier fit left in the folder, and nothing else."""
        for path in (self.model_path, self.state_path, self.history_path, self.preview_path):
            with writing(path, ELSEWHERE):
                path.unlink(missing_ok=True)
        for path in map(self.onnx_path_for, PRECISIONS):
            with writing(path, ELSEWHERE):
                path.unlink(missing_ok=True)

    def config(self) -> RunConfig:
        """Read `config.json`.

        Raises:
            InputError: the folder is not a run, or may not be read.
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
                    "Fit again with --force."
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
            )
        except (ValueError, KeyError, TypeError, UsageError) as error:
            raise FileFormatError(
                f"{self.config_path}: is damaged ({type(error).__name__}: {error}). Fit again with --force."
            ) from error


class History:
    """`history.jsonl`: one JSON object a line, appended as the fit goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def restart(self, step: int) -> None:
        """Keep the entries up to `step`, so that a continued fit does not repeat any."""
        kept = [json.dumps(entry) for entry in self.read() if entry.get("step", 0) <= step]
        atomic_write(self.path, "".join(line + "\n" for line in kept).encode(), ELSEWHERE)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            OutputError, ResourceError: it cannot be written.
        """
        with writing(self.path, ELSEWHERE), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; one that a killed process cut off is left out."""
        if not self.path.is_file():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries
