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
from typing import TYPE_CHECKING, Any

from self2self.contract import PRECISIONS, Contract
from self2self.errors import FileFormatError, InputError, UsageError, writing
from self2self.files import atomic_write
from self2self.train.iqa_weights import IqaWeights
from self2self.train.recipes import Recipe

if TYPE_CHECKING:
    import torch

    from self2self.train.fit import FitState
    from self2self.train.network import Self2SelfNet

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
    """

    image: str
    image_sha256: str
    channels: int
    recipe: Recipe
    seed: int
    start: str
    device: str
    iqa: IqaWeights | None = None

    def contract(self, steps: int) -> Contract:
        """The contract of a model after `steps` steps."""
        return Contract(
            channels=self.channels,
            masks=self.recipe.pass_masks(self.channels),
            recipe=self.recipe.name,
            seed=self.seed,
            steps=steps,
            image_sha256=self.image_sha256,
        )

    def same_fit(self, other: RunConfig) -> bool:
        """Whether continuing from `other` gives what starting this anew would give."""
        return replace(self, image=other.image, device=other.device) == other


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
            InputError: the folder is not a run.
            FileFormatError: the file is damaged or of another version.
        """
        if not self.config_path.is_file():
            raise InputError(f"{self.folder}: is not a run folder (it has no {CONFIG}). Fit first: self2self fit IMAGE")
        try:
            values = json.loads(self.config_path.read_text(encoding="utf-8"))
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
                # Runs of versions that knew no term have no such entry.
                iqa=IqaWeights(**values["iqa"]) if values.get("iqa") else None,
            )
        except (ValueError, KeyError, TypeError, UsageError) as error:
            raise FileFormatError(
                f"{self.config_path}: is damaged ({type(error).__name__}: {error}). Fit again with --force."
            ) from error


def save_state(run: Run, state: FitState) -> None:
    """Write `state.safetensors`."""
    from safetensors.torch import save

    parameters = dict(state.network.named_parameters())
    tensors: dict[str, torch.Tensor] = {f"network.{name}": tensor for name, tensor in parameters.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in (state.average or {}).items()}
    tensors |= {f"start.{name}": tensor for name, tensor in (state.start or {}).items()}
    for name, parameter in parameters.items():
        moments = state.optimiser.state.get(parameter, {})
        tensors |= {f"{key}.{name}": moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"step": str(state.step), "loss": repr(state.loss)}
    atomic_write(run.state_path, save(plain, metadata), ELSEWHERE)


def load_state(run: Run, state: FitState) -> None:
    """Restore what `save_state` wrote into a new `state` of the same recipe.

    Raises:
        InputError: there is nothing to continue from.
        FileFormatError: the file is damaged or of another recipe.
    """
    import torch

    from self2self.train.muon import moment_names

    if not run.state_path.is_file():
        raise InputError(f"{run.folder}: has no {STATE} to continue from. Start anew: self2self fit IMAGE --force")
    tensors, metadata = read_tensors(run.state_path)
    try:
        with torch.no_grad():
            for name, parameter in state.network.named_parameters():
                parameter.copy_(tensors[f"network.{name}"])
                if state.average is not None:
                    state.average[name].copy_(tensors[f"average.{name}"])
                if int(metadata["step"]):
                    state.optimiser.state[parameter] = {"step": torch.tensor(float(metadata["step"]))} | {
                        key: torch.empty_like(parameter).copy_(tensors[f"{key}.{name}"])
                        for key in moment_names(state.optimiser, name, parameter)
                    }
        if any(name.startswith("start.") for name in tensors):
            state.start = {
                name: torch.empty_like(parameter).copy_(tensors[f"start.{name}"])
                for name, parameter in state.network.state_dict().items()
            }
        state.step = int(metadata["step"])
        state.loss = float(metadata["loss"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"{run.state_path}: is damaged ({error}). Start anew with --force.") from error


def save_model(path: Path, weights: Mapping[str, torch.Tensor], recipe: Recipe, contract: Contract) -> None:
    """Write the weights for inference, with recipe and contract in the header."""
    from safetensors.torch import save

    header = {**contract.to_metadata(), "recipe": json.dumps(recipe.to_json())}
    atomic_write(path, save(dict(weights), header), ELSEWHERE)


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], Recipe, Contract]:
    """Read what `save_model` wrote.

    Raises:
        InputError: there is no such file.
        FileFormatError: it is damaged or foreign.
    """
    if not path.is_file():
        raise InputError(f"{path}: is not there; the fit has not finished. Continue it: self2self fit IMAGE --resume")
    tensors, metadata = read_tensors(path)
    contract = Contract.from_metadata(metadata, str(path))
    try:
        recipe = Recipe.from_json(json.loads(metadata["recipe"]))
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise FileFormatError(f"{path}: its header is damaged ({error}). Fit again with --force.") from error
    return tensors, recipe, contract


def load_network(path: Path) -> tuple[Self2SelfNet, Contract]:
    """The fitted network, float32 on the CPU and in evaluation mode, and its contract.

    Raises:
        InputError, FileFormatError: as for `load_weights`.
    """
    from self2self.train.network import Self2SelfNet

    tensors, recipe, contract = load_weights(path)
    network = Self2SelfNet(
        contract.channels, recipe.encoder_width, recipe.decoder_widths, contract.masks[-1].keep_probability
    )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise FileFormatError(
            f"{path}: its weights do not belong to recipe {recipe.name}. Fit again with --force."
        ) from error
    return network.eval(), contract


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors and the header's metadata of a safetensors file.

    Raises:
        FileFormatError: it is truncated, damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            f"{path}: is damaged or not a safetensors file ({error}). Fit again with --force."
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
