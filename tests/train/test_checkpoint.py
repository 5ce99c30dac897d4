import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from self2self.errors import FileFormatError, InputError
from self2self.train.checkpoint import (
    History,
    Run,
    RunConfig,
    load_network,
    load_state,
    load_weights,
    save_model,
    save_state,
)
from self2self.train.fit import FitState, fit, new_state
from tests.train.test_fit import CPU, TINY, image_of, same_weights


def config_of(**changes: object) -> RunConfig:
    values: dict[str, object] = {
        "image": "/somewhere/noisy.png",
        "image_sha256": "ab" * 32,
        "channels": 3,
        "recipe": TINY,
        "seed": 0,
        "start": "scratch",
        "device": "cpu",
    }
    return RunConfig(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "runs" / "noisy-abababab")
    run.create(config_of())
    return run


def stopped_at(step: int) -> FitState:
    """A fit that was interrupted after `step` steps."""

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


def test_a_model_is_run_with_the_drop_rate_of_passes() -> None:
    recipe = replace(TINY, input_drop_rate=0.5, pass_drop_rate=0.25)
    masks = config_of(recipe=recipe).contract(1).masks
    assert (masks[0].keep_probability, masks[1:]) == (0.75, recipe.masks(3)[1:])


def test_config_round_trip(run: Run) -> None:
    assert run.config() == config_of()
    assert run.config().same_fit(config_of(image="/elsewhere/noisy.png", device="cuda"))
    assert not run.config().same_fit(config_of(seed=1))


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


def test_state_of_another_architecture_is_refused(run: Run) -> None:
    save_state(run, stopped_at(2))
    with pytest.raises(FileFormatError, match="damaged"):
        load_state(run, new_state(TINY, 1, 0, CPU))


def test_missing_files_say_what_to_do(tmp_path: Path, run: Run) -> None:
    with pytest.raises(InputError, match="self2self fit IMAGE --force"):
        load_state(run, new_state(TINY, 3, 0, CPU))
    with pytest.raises(InputError, match="--resume"):
        load_weights(run.model_path)
    with pytest.raises(InputError, match="is not a run folder"):
        Run(tmp_path).config()
    with pytest.raises(InputError, match="holds no run yet"):
        Run.latest(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        ('{"format": 99}', "has run format 99; expected 1"),
    ],
)
def test_damaged_config(run: Run, text: str, message: str) -> None:
    run.config_path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        run.config()


def test_config_with_a_wrong_recipe_value(run: Run) -> None:
    values = json.loads(run.config_path.read_text())
    values["recipe"]["steps"] = -1
    run.config_path.write_text(json.dumps(values))
    with pytest.raises(FileFormatError, match="is damaged"):
        run.config()


def test_latest_is_the_run_that_was_touched_last(tmp_path: Path) -> None:
    for index, name in enumerate(("a", "b", "c")):
        run = Run(tmp_path / name)
        run.create(config_of())
        os.utime(run.config_path, (index, index))
    assert Run.latest(tmp_path).folder.name == "c"
    Run(tmp_path / "a").onnx_path.write_bytes(b"exported just now")
    assert Run.latest(tmp_path).folder.name == "a"


def test_folder_name_is_stem_and_hash_and_safe() -> None:
    assert Run.for_image(Path("x/cell 1 (a).tif"), "0123456789").folder == Path("runs/cell_1_a_-01234567")


def test_history_survives_a_line_cut_off_by_a_kill_and_restarts_without_repeats(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    for step in (10, 20, 30):
        history.append({"step": step, "loss": 0.5})
    with history.path.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [entry["step"] for entry in history.read()] == [10, 20, 30]
    history.restart(20)
    assert [entry["step"] for entry in history.read()] == [10, 20]


def test_clear_removes_what_a_fit_made_and_nothing_else(run: Run) -> None:
    run.model_path.write_bytes(b"x")
    (run.folder / "notes.txt").write_text("the user's own")
    run.clear()
    assert sorted(p.name for p in run.folder.iterdir()) == ["config.json", "notes.txt"]


def test_weights_are_copies(run: Run) -> None:
    state = new_state(TINY, 3, 0, CPU)
    weights = state.weights()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    fit(image_of(64, 64), TINY, state)
    assert all(np.array_equal(before[name], weights[name]) for name in weights)
