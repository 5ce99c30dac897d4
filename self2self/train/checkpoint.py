"""Writes weights and optimiser state of a fit to safetensors files of its run folder, and reads them back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from self2self.errors import FileFormatError, InputError, UsageError, typed
from self2self.machine.files import atomic_write
from self2self.model.contract import Contract
from self2self.train.recipes import Recipe
from self2self.train.run_folder import STATE, Run, elsewhere

if TYPE_CHECKING:
    import torch

    from self2self.model.network import Self2SelfNet
    from self2self.train.fit import FitState

DIGEST_KEY = "tensors_sha256"
"""Key of the tensors' digest in a file's metadata."""


def save_state(run: Run, state: FitState) -> None:
    """Write `state.safetensors`.

    Raises:
        OutputError, ResourceError: the file cannot be written.
    """
    parameters = dict(state.network.named_parameters())
    tensors: dict[str, torch.Tensor] = {f"network.{name}": tensor for name, tensor in parameters.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in (state.average or {}).items()}
    tensors |= {f"start.{name}": tensor for name, tensor in (state.start or {}).items()}
    tensors |= {f"good.{name}": tensor for name, tensor in (state.good or {}).items()}
    for name, parameter in parameters.items():
        moments = state.optimiser.state.get(parameter, {})
        tensors |= {f"{key}.{name}": moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments}
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"step": str(state.step), "loss": repr(state.loss), "good_step": str(state.good_step)}
    _write_tensors(run.state_path, on_cpu, metadata)


def load_state(run: Run, state: FitState) -> None:
    """Restore a saved state into `state`, in place.

    Args:
        run: the folder that `save_state` wrote to.
        state: from `fit.new_state` with the same recipe.

    Raises:
        InputError: there is nothing to continue from.
        FileFormatError: the file is damaged or of another recipe.
    """
    import torch

    from self2self.train.muon import moment_names

    if not run.state_path.is_file():
        raise InputError(
            f"{run.folder}: has no {STATE} to continue from. Start anew: self2self fit IMAGE -o {run.folder} --force"
        )
    tensors, metadata = read_tensors(run.state_path)
    try:
        with torch.no_grad():
            for name, parameter in state.network.named_parameters():
                parameter.copy_(tensors[f"network.{name}"])
                if state.average is not None:
                    state.average[name].copy_(tensors[f"average.{name}"])
                if int(metadata["step"]):
                    # The device on which the optimiser keeps the step.
                    device = parameter.device if state.optimiser.capturable else "cpu"
                    step = torch.tensor(float(metadata["step"]), device=device)
                    state.optimiser.state[parameter] = {"step": step} | {
                        key: torch.empty_like(parameter).copy_(tensors[f"{key}.{name}"])
                        for key in moment_names(state.optimiser, name, parameter)
                    }
        if any(name.startswith("start.") for name in tensors):
            state.start = {
                name: torch.empty_like(parameter).copy_(tensors[f"start.{name}"])
                for name, parameter in state.network.state_dict().items()
            }
        good = {name.removeprefix("good."): tensor for name, tensor in tensors.items() if name.startswith("good.")}
        # States of earlier versions have no good weights.
        state.good, state.good_step = good or None, int(metadata.get("good_step", "0"))
        state.step = int(metadata["step"])
        state.loss = float(metadata["loss"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"{run.state_path}: is damaged ({error}). Start anew with {typed('--force')}.") from error


def save_model(path: Path, weights: Mapping[str, torch.Tensor], recipe: Recipe, contract: Contract) -> None:
    """Write the weights for inference, with recipe and contract in the header.

    Raises:
        OutputError, ResourceError: the file cannot be written.
    """
    header = {**contract.to_metadata(), "recipe": json.dumps(recipe.to_json())}
    _write_tensors(path, weights, header)


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], Recipe, Contract]:
    """Read weights, recipe and contract from a file of `save_model`.

    Raises:
        InputError: there is no such file.
        FileFormatError: the file is damaged or was not written by `save_model`.
    """
    if not path.is_file():
        raise InputError(f"{path}: is not there; the fit has not finished. Continue it: self2self fit IMAGE --resume")
    tensors, metadata = read_tensors(path)
    contract = Contract.from_metadata(metadata, str(path))
    try:
        recipe = Recipe.from_json(json.loads(metadata["recipe"]))
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise FileFormatError(f"{path}: its header is damaged ({error}). Fit again with {typed('--force')}.") from error
    return tensors, recipe, contract


def load_network(path: Path) -> tuple[Self2SelfNet, Contract]:
    """The fitted network, float32 on the CPU and in evaluation mode, and its contract.

    Raises:
        InputError, FileFormatError: as for `load_weights`.
    """
    from self2self.model.network import Self2SelfNet

    tensors, recipe, contract = load_weights(path)
    network = Self2SelfNet(
        contract.channels, recipe.encoder_width, recipe.decoder_widths, contract.masks[-1].keep_probability
    )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise FileFormatError(
            f"{path}: its weights do not belong to recipe {recipe.name}. Fit again with {typed('--force')}."
        ) from error
    return network.eval(), contract


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values; it does not depend on order, device or memory layout."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        # The view as bytes is needed because numpy has no bfloat16.
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    from safetensors.torch import save

    atomic_write(path, save(dict(tensors), {**metadata, DIGEST_KEY: tensors_sha256(tensors)}), elsewhere())


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file; the digest is checked where the metadata have one.

    Raises:
        FileFormatError: the file is truncated, damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            f"{path}: is damaged or not a safetensors file ({error}). Fit again with {typed('--force')}."
        ) from error
    # Files of earlier versions and of other programs have no digest.
    if DIGEST_KEY in metadata and metadata[DIGEST_KEY] != tensors_sha256(tensors):
        raise FileFormatError(
            f"{path}: is damaged (its tensors are not those written). Fit again with {typed('--force')}."
        )
    return tensors, metadata
