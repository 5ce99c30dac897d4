"""Weights and optimiser state on disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from self2self.errors import FileFormatError, InputError
from self2self.train.checkpoint import (
    DIGEST_KEY,
    load_network,
    load_state,
    load_weights,
    read_tensors,
    save_model,
    save_state,
    tensors_sha256,
)
from self2self.train.fit import FitState, fit, new_state
from self2self.train.run_folder import Run
from tests.train.test_fit import CPU, TINY, image_of, same_weights
from tests.train.test_run_folder import config_of, run

__all__ = ["run"]


def stopped_at(step: int) -> FitState:
    """The state of a fit that was interrupted after `step` steps."""

    class StopError(Exception):
        pass

    def on_step(state: FitState) -> None:
        if state.step == step:
            raise StopError

    state = new_state(TINY, 3, 0, CPU)
    with pytest.raises(StopError):
        fit(image_of(64, 64), TINY, state, on_step=on_step)
    return state


@pytest.mark.parametrize("step", [1, 4])
def test_continuing_takes_the_same_bits_as_never_stopping(run: Run, step: int) -> None:
    save_state(run, stopped_at(step))
    restored = new_state(TINY, 3, seed=99, device=CPU)
    load_state(run, restored)
    assert restored.step == step
    continued = fit(image_of(64, 64), TINY, restored)
    whole = fit(image_of(64, 64), TINY, new_state(TINY, 3, 0, CPU))
    assert same_weights(continued, whole)
    raw = dict(whole.network.named_parameters())
    assert all(torch.equal(raw[name], p) for name, p in continued.network.named_parameters())


def test_continuing_needs_no_start_weights(run: Run) -> None:
    recipe = replace(TINY, fitted_share=0.5)
    start = stopped_at(3).weights()
    image = image_of(64, 64)
    half = fit(image, replace(recipe, steps=2), new_state(recipe, 3, 0, CPU, start))
    save_state(run, half)
    restored = new_state(recipe, 3, 0, CPU)
    load_state(run, restored)
    assert same_weights(half, restored)
    assert not same_weights(half, new_state(recipe, 3, 0, CPU, start))
    assert same_weights(fit(image, recipe, restored), fit(image, recipe, half))


def test_model_round_trip_and_its_own_description(run: Run) -> None:
    state = fit(image_of(64, 64), TINY, new_state(TINY, 3, 0, CPU))
    save_model(run.model_path, state.weights(), TINY, config_of().contract(state.step))
    network, contract = load_network(run.model_path)
    assert contract == config_of().contract(6)
    assert not network.training
    assert all(torch.equal(state.weights()[name], tensor) for name, tensor in network.state_dict().items())
    assert network.decoder_keep == contract.masks[-1].keep_probability


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "one byte"])
def test_damaged_tensors_are_one_line_with_exit_code_6(run: Run, damage: str) -> None:
    state = stopped_at(2)
    save_state(run, state)
    save_model(run.model_path, state.weights(), TINY, config_of().contract(2))
    for path in (run.state_path, run.model_path):
        data = path.read_bytes()
        broken = {"truncated": data[:-40], "text": b"hello, not tensors", "empty": b"", "one byte": b"\xff" + data[1:]}
        path.write_bytes(broken[damage])
    for load in (lambda: load_state(run, new_state(TINY, 3, 0, CPU)), lambda: load_weights(run.model_path)):
        with pytest.raises(FileFormatError) as caught:
            load()
        assert "--force" in str(caught.value)
        assert caught.value.exit_code == 6


def test_flipped_bits_in_tensors_are_found(run: Run) -> None:
    state = stopped_at(2)
    save_state(run, state)
    save_model(run.model_path, state.weights(), TINY, config_of().contract(2))
    loads = {
        run.state_path: lambda: load_state(run, new_state(TINY, 3, 0, CPU)),
        run.model_path: lambda: load_weights(run.model_path),
    }
    for path, load in loads.items():
        load()
        good = path.read_bytes()
        tensors = 8 + int.from_bytes(good[:8], "little")
        for place in (tensors, (tensors + len(good)) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[place] ^= 0x40
            path.write_bytes(bad)
            with pytest.raises(FileFormatError, match=r"is damaged \(its tensors .* --force\.") as caught:
                load()
            assert caught.value.exit_code == 6


def test_files_of_versions_without_a_digest_are_read(run: Run) -> None:
    weights = stopped_at(2).weights()
    save_model(run.model_path, weights, TINY, config_of().contract(2))
    _, metadata = read_tensors(run.model_path)
    del metadata[DIGEST_KEY]
    run.model_path.write_bytes(save(weights, metadata))
    found, _, contract = load_weights(run.model_path)
    assert contract == config_of().contract(2)
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_state_of_another_architecture_is_refused(run: Run) -> None:
    save_state(run, stopped_at(2))
    with pytest.raises(FileFormatError, match="damaged"):
        load_state(run, new_state(TINY, 1, 0, CPU))


def test_missing_files_say_what_to_do(tmp_path: Path, run: Run) -> None:
    with pytest.raises(InputError, match=f"self2self fit IMAGE -o {run.folder} --force"):
        load_state(run, new_state(TINY, 3, 0, CPU))
    with pytest.raises(InputError, match="--resume"):
        load_weights(run.model_path)
    with pytest.raises(InputError, match="is not a run folder"):
        Run(tmp_path).config()
    with pytest.raises(InputError, match="holds no run yet"):
        Run.latest(tmp_path / "nothing")


def test_the_hash_of_weights_does_not_depend_on_order_or_memory_layout() -> None:
    weights = new_state(TINY, 3, 0, CPU).weights()
    digest = tensors_sha256(weights)
    laid_out = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        for name, tensor in reversed(weights.items())
    }
    assert tensors_sha256(laid_out) == digest
    name, first = next(iter(weights.items()))
    others = [
        {name: first.flatten()},
        {name: first.to(torch.bfloat16)},
        {name: first + 1e-6},
        {"other": first},
    ]
    assert len({digest, *(tensors_sha256(weights | other) for other in others)}) == 5


def test_weights_are_copies(run: Run) -> None:
    state = new_state(TINY, 3, 0, CPU)
    weights = state.weights()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    fit(image_of(64, 64), TINY, state)
    assert all(np.array_equal(before[name], weights[name]) for name in weights)
